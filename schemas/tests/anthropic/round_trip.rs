//! What both the dialect and the internal form can say survives the way there and back.

use proptest::prelude::*;
use schemas::dialect::anthropic::{MessagesRequest, read_request, write_request};
use schemas::model::{
    Chat, Format, Media, Message, Part, Role, Sampling, Source, Tool, ToolChoice,
};
use serde_json::json;

use super::{MODEL, raw, says, words};

fn word() -> impl Strategy<Value = String> {
    "[a-zé\"\\\\]{1,5}"
}

fn id() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9_-]{1,5}"
}

fn media(kinds: &'static [&'static str]) -> impl Strategy<Value = Media> {
    let here = proptest::sample::select(kinds).prop_map(|media_type| Source::Base64 {
        media_type: media_type.to_owned(),
        data: "aGk=".to_owned(),
    });
    prop_oneof![here, word().prop_map(Source::Url)].prop_map(|source| Media {
        source,
        name: None,
        detail: None,
    })
}

fn result() -> impl Strategy<Value = Part> {
    let image = media(&["image/png"]).prop_map(Part::Image);
    let part = prop_oneof![word().prop_map(Part::Text), image];
    let parts = proptest::collection::vec(part, 0..3);
    (id(), parts, any::<bool>()).prop_map(|(id, parts, is_error)| Part::ToolResult {
        id,
        parts,
        is_error,
    })
}

fn question() -> impl Strategy<Value = Message> {
    let part = prop_oneof![
        word().prop_map(Part::Text),
        media(&["image/png", "image/webp"]).prop_map(Part::Image),
        media(&["application/pdf", "text/plain"]).prop_map(Part::Document),
    ];
    let results = proptest::collection::vec(result(), 0..3);
    let parts = proptest::collection::vec(part, 1..4);
    (results, parts).prop_map(|(mut results, parts)| {
        results.extend(parts);
        says(Role::User, results)
    })
}

fn reply() -> impl Strategy<Value = Message> {
    let thought = ("[a-z]{0,3}", word()).prop_map(|(text, signature)| Part::Reasoning {
        text,
        signature: Some(signature),
    });
    let arguments = prop_oneof![
        Just("{}".to_owned()),
        (word(), word()).prop_map(|(key, value)| json!({key: value}).to_string()),
        Just("{\"cut".to_owned()),
    ];
    let call = (id(), word(), arguments).prop_map(|(id, name, arguments)| Part::ToolCall {
        id,
        name,
        arguments,
    });
    let part = prop_oneof![thought, word().prop_map(Part::Text), call];
    proptest::collection::vec(part, 1..4).prop_map(|parts| says(Role::Assistant, parts))
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    let system = proptest::collection::vec(word(), 0..3);
    let turns = proptest::collection::vec((question(), reply()), 0..3);
    (system, turns, question(), any::<bool>()).prop_map(|(system, turns, last, is_begun)| {
        let mut messages = Vec::new();
        if !system.is_empty() {
            messages.push(says(
                Role::System,
                system.into_iter().map(Part::Text).collect(),
            ));
        }
        for (question, reply) in turns {
            messages.extend([question, reply]);
        }
        messages.push(last);
        if is_begun {
            messages.push(Message {
                is_prefix: true,
                ..says(Role::Assistant, vec![words("The")])
            });
        }
        messages
    })
}

fn tools() -> impl Strategy<Value = (Vec<Tool>, Option<ToolChoice>, Option<bool>)> {
    let tool = (word(), proptest::option::of(word()), any::<bool>());
    let tool = tool.prop_map(|(name, description, is_strict)| Tool {
        name,
        description,
        parameters: Some(raw(&json!({"type": "object"}))),
        strict: is_strict.then_some(true),
    });
    let choice = prop_oneof![
        Just(ToolChoice::Auto),
        Just(ToolChoice::Required),
        word().prop_map(ToolChoice::Named),
    ];
    let choice = proptest::option::of(choice);
    let tools = proptest::collection::vec(tool, 0..3);
    (tools, choice, any::<bool>()).prop_map(|(tools, choice, is_single)| {
        let choice = choice.filter(|_| !tools.is_empty());
        let parallel = (is_single && choice.is_some()).then_some(false);
        (tools, choice, parallel)
    })
}

/// From 0 to 1, without digits that reading may round.
fn share() -> impl Strategy<Value = f64> {
    (0..=64).prop_map(|part| f64::from(part) / 64.0)
}

prop_compose! {
    /// What both forms can say, in its one spelling.
    fn chats()(
        messages in messages(),
        (tools, tool_choice, parallel_tool_calls) in tools(),
        has_format in any::<bool>(),
        temperature in proptest::option::of(share()),
        top_p in proptest::option::of(share()),
        top_k in proptest::option::of(0..100_i64),
        stop in proptest::collection::vec(word(), 0..3),
        tokens_max in 1..i64::MAX,
        user in proptest::option::of(word()),
        stream in any::<bool>(),
    ) -> Chat {
        Chat {
            messages,
            tools,
            tool_choice,
            parallel_tool_calls,
            format: has_format.then(|| Format::JsonSchema {
                name: "response".to_owned(),
                description: None,
                schema: raw(&json!({"type": "object"})),
                strict: Some(true),
            }),
            sampling: Sampling { temperature, top_p, top_k, ..Sampling::default() },
            stop,
            tokens_max: Some(tokens_max),
            n: 1,
            user,
            stream,
            ..Chat::default()
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_back_as_the_same_request(chat in chats()) {
        let body = write_request(&chat, MODEL).unwrap();
        prop_assert!(MessagesRequest::parse(&body).is_ok());
        let read = read_request(&body).unwrap();
        prop_assert_eq!(format!("{read:?}"), format!("{chat:?}"));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(read_request(&bytes).is_err());
    }
}
