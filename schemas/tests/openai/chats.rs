//! Conversations of any kind, and what holds for all of them.

use proptest::prelude::*;
use schemas::dialect::openai::{read_request, write_request};
use schemas::model::{
    Chat, Effort, Format, Media, Message, Part, Reasoning, Role, Sampling, Source, Tool, ToolChoice,
};
use serde_json::value::RawValue;

use crate::recorded::fixture;

pub(crate) fn message(role: Role, parts: Vec<Part>) -> Message {
    Message {
        role,
        name: None,
        parts,
        is_prefix: false,
    }
}

pub(crate) fn call(id: &str, name: &str, arguments: &str) -> Part {
    Part::ToolCall {
        id: id.to_owned(),
        name: name.to_owned(),
        arguments: arguments.to_owned(),
    }
}

pub(crate) fn result(id: &str, text: &str) -> Part {
    Part::ToolResult {
        id: id.to_owned(),
        parts: vec![Part::Text(text.to_owned())],
        is_error: false,
    }
}

fn text() -> impl Strategy<Value = String> {
    "[a-zA-Zäß漢 \"\\\\\n]{1,12}"
}

fn media(name: Option<&'static str>, media_type: &'static str) -> impl Strategy<Value = Media> {
    "[A-Za-z0-9+/]{4}".prop_map(move |data| Media {
        source: Source::Base64 {
            media_type: media_type.to_owned(),
            data,
        },
        name: name.map(str::to_owned),
        detail: None,
    })
}

fn user_part() -> impl Strategy<Value = Part> {
    prop_oneof![
        text().prop_map(Part::Text),
        media(None, "image/webp").prop_map(Part::Image),
        media(None, "audio/mpeg").prop_map(Part::Audio),
        media(Some("a.pdf"), "application/pdf").prop_map(Part::Document),
        proptest::option::of(Just("high".to_owned())).prop_map(|detail| Part::Image(Media {
            source: Source::Url("https://example.com/ü".to_owned()),
            name: None,
            detail,
        })),
    ]
}

/// What the user says, what the assistant answers, and what its calls gave back.
fn exchange() -> impl Strategy<Value = Vec<Message>> {
    let parts = proptest::collection::vec(user_part(), 1..4);
    let texts = proptest::collection::vec(text(), 0..3);
    let calls = proptest::collection::vec((text(), text(), text()), 0..3);
    let name = proptest::option::of("[a-z]{1,8}");
    let refusal = proptest::option::of(text());
    (name, parts, texts, refusal, calls).prop_map(|(name, parts, texts, refusal, calls)| {
        let mut said: Vec<_> = texts.into_iter().map(Part::Text).collect();
        said.extend(refusal.map(Part::Refusal));
        let mut results = Vec::new();
        for (index, (function, arguments, answer)) in calls.into_iter().enumerate() {
            let id = format!("call_{index}");
            said.push(call(&id, &function, &arguments));
            results.push(result(&id, &answer));
        }
        if said.is_empty() {
            said.push(Part::Text(String::new()));
        }
        let user = Message {
            name,
            ..message(Role::User, parts)
        };
        let mut messages = vec![user, message(Role::Assistant, said)];
        if !results.is_empty() {
            messages.push(message(Role::User, results));
        }
        messages
    })
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

fn tools() -> impl Strategy<Value = (Vec<Tool>, Option<ToolChoice>, Option<bool>)> {
    let tool = (
        text(),
        proptest::option::of(text()),
        any::<bool>(),
        any::<Option<bool>>(),
    );
    let tool = tool.prop_map(|(name, description, takes, strict)| Tool {
        name,
        description,
        parameters: takes.then(|| raw(r#"{"type":"object","x": 1.0}"#)),
        strict,
    });
    let choice = prop_oneof![
        Just(None),
        Just(Some(ToolChoice::Auto)),
        Just(Some(ToolChoice::None)),
        Just(Some(ToolChoice::Required)),
        text().prop_map(|name| Some(ToolChoice::Named(name))),
    ];
    let offered = (
        proptest::collection::vec(tool, 1..3),
        choice,
        any::<Option<bool>>(),
    );
    prop_oneof![Just((Vec::new(), None, None)), offered]
}

fn format() -> impl Strategy<Value = Option<Format>> {
    let schema = (text(), proptest::option::of(text()), any::<Option<bool>>());
    prop_oneof![
        Just(None),
        Just(Some(Format::JsonObject)),
        schema.prop_map(|(name, description, strict)| Some(Format::JsonSchema {
            name,
            description,
            schema: raw(r#"{ "type" : "object" }"#),
            strict,
        })),
    ]
}

fn sampling() -> impl Strategy<Value = Sampling> {
    let eighths = |least: i32, most: i32| {
        proptest::option::of((least * 8..=most * 8).prop_map(|eighths| f64::from(eighths) / 8.0))
    };
    (
        eighths(0, 2),
        eighths(0, 1),
        proptest::option::of(1..100_i64),
        eighths(-2, 2),
        eighths(-2, 2),
        any::<Option<i64>>(),
        proptest::collection::btree_map("[0-9]{1,4}", (-100..100_i32).prop_map(f64::from), 0..2),
    )
        .prop_map(
            |(temperature, top_p, top_k, presence_penalty, frequency_penalty, seed, logit_bias)| {
                Sampling {
                    temperature,
                    top_p,
                    top_k,
                    presence_penalty,
                    frequency_penalty,
                    seed,
                    logit_bias,
                }
            },
        )
}

fn reasoning() -> impl Strategy<Value = Option<Reasoning>> {
    let effort = [Effort::Minimal, Effort::Low, Effort::Medium, Effort::High];
    prop_oneof![
        Just(None),
        Just(Some(Reasoning::Off)),
        proptest::sample::select(effort.to_vec())
            .prop_map(|effort| Some(Reasoning::Effort(effort))),
    ]
}

fn any_chat() -> impl Strategy<Value = Chat> {
    let system = proptest::option::of(proptest::collection::vec(text().prop_map(Part::Text), 1..3));
    let exchanges = proptest::collection::vec(exchange(), 1..3);
    let numbers = (
        proptest::option::of(1..=i64::MAX),
        1..=128_i32,
        proptest::option::of(0..=20),
    );
    let words = (
        proptest::collection::vec(text(), 0..3),
        proptest::option::of(text()),
        any::<bool>(),
    );
    let wishes = (tools(), format(), reasoning(), sampling());
    (system, exchanges, numbers, words, wishes).prop_map(
        |(system, exchanges, (tokens_max, n, logprobs), (stop, user, stream), wishes)| {
            let ((tools, tool_choice, parallel_tool_calls), format, reasoning, sampling) = wishes;
            let system = system.map(|parts| message(Role::System, parts));
            Chat {
                messages: system.into_iter().chain(exchanges.concat()).collect(),
                tools,
                tool_choice,
                parallel_tool_calls,
                format,
                reasoning,
                sampling,
                stop,
                tokens_max,
                n,
                logprobs,
                user,
                stream,
                ..Chat::default()
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_written_request_reads_back_the_same(chat in any_chat()) {
        let sent = write_request(&chat, "m").unwrap();
        let read = read_request(&sent).unwrap();
        prop_assert_eq!(format!("{read:?}"), format!("{chat:?}"));
    }

    #[test]
    fn damaged_requests_are_refused_and_never_panic(place in 0..4_000_usize, byte: u8) {
        let mut body = fixture("chat.request.json");
        let length = body.len();
        body[place % length] = byte;
        match read_request(&body) {
            Ok(chat) => {
                // A name may have become another; what is read can still be sent or is refused.
                if let Err(error) = write_request(&chat, "m") {
                    prop_assert_eq!(error.status, 400);
                }
            }
            Err(error) => prop_assert_eq!(error.status, 400),
        }
    }
}
