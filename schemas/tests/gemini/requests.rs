//! What is asked of Gemini.

use std::collections::BTreeMap;

use schemas::dialect::gemini::{embed_path, path, write_embeddings, write_request};
use schemas::model::{
    Chat, Effort, Embed, EmbedInput, Format, Media, Message, Part, Reasoning, Role, Sampling,
    Source, Tool, ToolChoice,
};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{json, json_fixture, message, param, text};

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn media(source: Source) -> Media {
    Media {
        source,
        name: Some("name".to_owned()),
        detail: Some("low".to_owned()),
    }
}

pub(super) fn base64(media_type: &str, data: &str) -> Media {
    media(Source::Base64 {
        media_type: media_type.to_owned(),
        data: data.to_owned(),
    })
}

pub(super) fn url(url: &str) -> Media {
    media(Source::Url(url.to_owned()))
}

fn tool(name: &str, strict: bool) -> Tool {
    Tool {
        name: name.to_owned(),
        description: None,
        parameters: None,
        strict: Some(strict),
    }
}

pub(super) fn call(id: &str, name: &str, arguments: &str) -> Part {
    Part::ToolCall {
        id: id.to_owned(),
        name: name.to_owned(),
        arguments: arguments.to_owned(),
    }
}

pub(super) fn result(id: &str, is_error: bool, parts: Vec<Part>) -> Part {
    Part::ToolResult {
        id: id.to_owned(),
        parts,
        is_error,
    }
}

fn words(text: &str) -> Part {
    Part::Text(text.to_owned())
}

pub(super) fn hello() -> Chat {
    Chat {
        messages: vec![text(Role::User, "Hello")],
        n: 1,
        ..Chat::default()
    }
}

/// What is written for `hello` after `change`.
fn written(change: impl FnOnce(&mut Chat)) -> Value {
    let mut chat = hello();
    change(&mut chat);
    json(&write_request(&chat).unwrap())
}

/// The field that is refused in `hello` after `change`.
fn refused(change: impl FnOnce(&mut Chat)) -> String {
    let mut chat = hello();
    change(&mut chat);
    let error = write_request(&chat).unwrap_err();
    let (status, param) = param(&error);
    assert_eq!(
        (status, error.kind.as_str()),
        (400, "invalid_request_error")
    );
    param.unwrap().to_owned()
}

#[test]
fn a_path_names_the_model_and_no_model_leaves_its_place() {
    assert_eq!(
        path("gemini-2.5-flash", false),
        "models/gemini-2.5-flash:generateContent"
    );
    assert_eq!(
        path("models/gemini-2.5-flash", true),
        "models/gemini-2.5-flash:streamGenerateContent?alt=sse"
    );
    assert_eq!(
        path("../a?b=c#d%2f:ü", false),
        "models/..%2Fa%3Fb%3Dc%23d%252f%3A%C3%BC:generateContent"
    );
    assert_eq!(
        embed_path("gemini-embedding-001"),
        "models/gemini-embedding-001:batchEmbedContents"
    );
}

#[test]
fn a_conversation_with_pictures_and_every_setting_is_written() {
    let chat = Chat {
        messages: vec![
            text(Role::System, "You are a cat. Your name is Neko."),
            text(Role::User, "Hello"),
            text(
                Role::Assistant,
                "Great to meet you. What would you like to know?",
            ),
            message(
                Role::User,
                vec![
                    words("What is in this picture, and in these files?"),
                    Part::Image(base64("image/jpeg", "/9j/4AAQSkZJRg==")),
                    Part::Document(url("https://example.com/a.PDF?x=1")),
                    Part::Image(url(
                        "https://generativelanguage.googleapis.com/v1beta/files/abc-123",
                    )),
                ],
            ),
        ],
        format: Some(Format::JsonSchema {
            name: "answer".to_owned(),
            description: None,
            schema: raw(
                r#"{"type":"object","properties":{"answer":{"type":"string"}},"required":["answer"],"additionalProperties":false}"#,
            ),
            strict: Some(true),
        }),
        sampling: Sampling {
            temperature: Some(0.9),
            top_p: Some(0.8),
            top_k: Some(10),
            presence_penalty: Some(0.5),
            frequency_penalty: Some(-0.5),
            seed: Some(42),
            logit_bias: BTreeMap::new(),
        },
        stop: vec!["Title".to_owned(), String::new()],
        tokens_max: Some(800),
        n: 2,
        metadata: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        user: Some("user".to_owned()),
        stream: true,
        ..Chat::default()
    };
    assert_eq!(
        json(&write_request(&chat).unwrap()),
        json_fixture("text.request.json")
    );
}

#[test]
fn functions_are_declared_by_their_json_schema() {
    let chat = Chat {
        messages: vec![text(
            Role::User,
            "Schedule a meeting with Bob and Alice for 03/14/2025 at 10:00 AM.",
        )],
        tools: vec![
            Tool {
                description: Some(
                    "Schedules a meeting with specified attendees at a given time and date."
                        .to_owned(),
                ),
                parameters: Some(raw(
                    r#"{"type":"object","properties":{"attendees":{"type":"array","items":{"type":"string"}},"date":{"type":"string","pattern":"^[0-9-]+$"}},"required":["attendees","date"],"additionalProperties":false}"#,
                )),
                ..tool("schedule_meeting", true)
            },
            tool("list_meetings", false),
        ],
        tool_choice: Some(ToolChoice::Named("schedule_meeting".to_owned())),
        parallel_tool_calls: Some(true),
        n: 1,
        ..Chat::default()
    };
    assert_eq!(
        json(&write_request(&chat).unwrap()),
        json_fixture("tools.request.json")
    );
}

#[test]
pub(super) fn results_of_calls_made_together_are_one_turn_and_name_their_functions() {
    let chat = Chat {
        messages: vec![
            text(Role::User, "Turn this place into a party!"),
            message(
                Role::Assistant,
                vec![
                    Part::Reasoning {
                        text: "Here we go.".to_owned(),
                        signature: Some("another provider's".to_owned()),
                    },
                    call("gp737npz", "power_disco_ball", r#"{"power":true}"#),
                    call(
                        "k2m9x0aa",
                        "start_music",
                        r#" {"energetic":true,"loud":1.50} "#,
                    ),
                    call("z81bqqww", "dim_lights", ""),
                ],
            ),
            message(
                Role::User,
                vec![result(
                    "gp737npz",
                    false,
                    vec![
                        words("spinning"),
                        Part::Image(base64("image/png", "iVBORw0KGgo=")),
                        words("fast"),
                    ],
                )],
            ),
            message(
                Role::User,
                vec![result(
                    "k2m9x0aa",
                    false,
                    vec![words(r#"{"track":12345678901234567890}"#)],
                )],
            ),
            message(
                Role::User,
                vec![result("z81bqqww", true, vec![words("no such lamp")])],
            ),
            text(Role::User, "And now?"),
        ],
        tools: vec![
            tool("power_disco_ball", false),
            tool("start_music", true),
            tool("dim_lights", false),
        ],
        n: 1,
        ..Chat::default()
    };
    let written = write_request(&chat).unwrap();
    assert_eq!(json(&written), json_fixture("parallel.request.json"));
    // Digits of arguments stay as they were.
    assert!(std::str::from_utf8(&written).unwrap().contains("1.50"));
}

#[test]
fn an_id_that_comes_again_means_the_latest_call() {
    let turn = |name: &str| {
        [
            message(Role::Assistant, vec![call("call_0", name, "{}")]),
            message(Role::User, vec![result("call_0", false, vec![words("x")])]),
        ]
    };
    let written = written(|chat| chat.messages.extend([turn("f"), turn("g")].concat()));
    let name = |turn: usize| &written["contents"][turn]["parts"][0]["functionResponse"]["name"];
    assert_eq!((name(2), name(4)), (&json!("f"), &json!("g")));
    // Each turn of the model is checked for a signature by itself.
    for turn in [1, 3] {
        assert!(written["contents"][turn]["parts"][0]["thoughtSignature"].is_string());
    }
}

#[test]
fn how_much_to_think_is_a_budget() {
    let config = |reasoning| {
        let written = written(|chat| chat.reasoning = Some(reasoning));
        written["generationConfig"]["thinkingConfig"].clone()
    };
    assert_eq!(
        json(
            &write_request(&Chat {
                messages: vec![text(
                    Role::User,
                    "What is the sum of the first 50 prime numbers?"
                )],
                reasoning: Some(Reasoning::Effort(Effort::Low)),
                ..hello()
            })
            .unwrap()
        ),
        json_fixture("thinking.request.json")
    );
    assert_eq!(config(Reasoning::Off), json!({"thinkingBudget": 0}));
    assert_eq!(config(Reasoning::Tokens(-1)), json!({"thinkingBudget": 0}));
    for (reasoning, budget) in [
        (Reasoning::Effort(Effort::Minimal), 1_024),
        (Reasoning::Effort(Effort::Medium), 8_192),
        (Reasoning::Effort(Effort::High), 24_576),
        (Reasoning::Tokens(77), 77),
    ] {
        let expected = json!({"thinkingBudget": budget, "includeThoughts": true});
        assert_eq!(config(reasoning), expected);
    }
    assert_eq!(written(|_| ())["generationConfig"], json!({}));
}

#[test]
fn a_choice_of_tools_is_a_mode() {
    let config = |choice: Option<ToolChoice>, strict| {
        let written = written(|chat| {
            chat.tools = vec![tool("f", strict)];
            chat.tool_choice = choice;
        });
        written["toolConfig"]["functionCallingConfig"].clone()
    };
    assert_eq!(config(None, false), Value::Null);
    assert_eq!(
        config(Some(ToolChoice::Auto), false),
        json!({"mode": "AUTO"})
    );
    assert_eq!(
        config(Some(ToolChoice::Auto), true),
        json!({"mode": "VALIDATED"})
    );
    for strict in [false, true] {
        assert_eq!(
            config(Some(ToolChoice::None), strict),
            json!({"mode": "NONE"})
        );
        assert_eq!(
            config(Some(ToolChoice::Required), strict),
            json!({"mode": "ANY"})
        );
    }
    let without = written(|chat| chat.tool_choice = Some(ToolChoice::Auto));
    assert_eq!(without.get("toolConfig"), None);
    assert_eq!(without.get("tools"), None);
}

#[test]
fn what_gemini_cannot_say_is_refused_by_its_name() {
    let tools = |chat: &mut Chat| chat.tools = vec![tool("f", false)];
    let named = |name: &str| Some(ToolChoice::Named(name.to_owned()));
    assert_eq!(
        refused(|chat| {
            tools(chat);
            chat.parallel_tool_calls = Some(false);
        }),
        "parallel_tool_calls"
    );
    assert!(written(|chat| chat.parallel_tool_calls = Some(false)).is_object());
    assert_eq!(
        refused(|chat| chat.tool_choice = Some(ToolChoice::Required)),
        "tool_choice"
    );
    assert_eq!(
        refused(|chat| {
            tools(chat);
            chat.tool_choice = named("g");
        }),
        "tool_choice"
    );
    assert_eq!(
        refused(|chat| chat.sampling.logit_bias = BTreeMap::from([("50256".to_owned(), 1.0)])),
        "logit_bias"
    );
    assert_eq!(
        refused(|chat| chat.sampling.seed = Some(i64::from(i32::MAX) + 1)),
        "seed"
    );
    assert_eq!(
        refused(|chat| chat.stop = ["a", "b", "c", "d", "e", "f"].map(str::to_owned).into()),
        "stop"
    );
}

#[test]
fn messages_that_gemini_cannot_read_are_refused() {
    let after = |added: Message| refused(|chat| chat.messages.push(added));
    let assistant = |part| message(Role::Assistant, vec![part]);
    let user = |part| message(Role::User, vec![part]);
    let messages = [
        Message {
            is_prefix: true,
            ..text(Role::Assistant, "It")
        },
        message(Role::System, vec![Part::Image(url("https://example.com"))]),
        user(result("unknown", false, vec![words("x")])),
        assistant(call("a", "f", "[1]")),
        assistant(call("a", "f", r#"{"cut":"#)),
        assistant(call("a", "f", "{} {}")),
    ];
    for message in messages {
        assert_eq!(after(message.clone()), "messages", "{message:?}");
    }
    let nested = [
        assistant(call("a", "f", "{}")),
        user(result("a", false, vec![call("b", "g", "{}")])),
    ];
    assert_eq!(refused(|chat| chat.messages.extend(nested)), "messages");
    assert_eq!(refused(|chat| chat.logprobs = Some(0)), "logprobs");
    for messages in [
        vec![text(Role::System, "only instructions")],
        vec![text(Role::User, "")],
    ] {
        assert_eq!(refused(|chat| chat.messages = messages), "messages");
    }
}

#[test]
fn bounds_beyond_32_bits_are_the_highest() {
    let written = written(|chat| {
        chat.tokens_max = Some(i64::MAX);
        chat.sampling.top_k = Some(i64::MAX);
        chat.sampling.seed = Some(-1);
        chat.format = Some(Format::JsonObject);
    });
    assert_eq!(
        written["generationConfig"],
        json!({
            "topK": i32::MAX,
            "seed": -1,
            "maxOutputTokens": i32::MAX,
            "responseMimeType": "application/json",
        })
    );
}

#[test]
fn each_input_is_a_request_for_an_embedding() {
    let embed = |inputs, dimensions| Embed {
        inputs,
        dimensions,
        base64: true,
        user: None,
    };
    let inputs = ["What is the meaning of life?", "How does the brain work?"];
    let inputs = inputs.map(|text| EmbedInput::Text(text.to_owned()));
    for model in ["gemini-embedding-001", "models/gemini-embedding-001"] {
        assert_eq!(
            json(&write_embeddings(&embed(inputs.to_vec(), Some(3)), model).unwrap()),
            json_fixture("embeddings.request.json")
        );
    }
    let plain = write_embeddings(&embed(inputs[..1].to_vec(), None), "m").unwrap();
    assert_eq!(
        json(&plain)["requests"][0],
        json!({"model": "models/m", "content": {"parts": [{"text": "What is the meaning of life?"}]}})
    );
    let tokens = embed(vec![inputs[0].clone(), EmbedInput::Tokens(vec![1])], None);
    let error = write_embeddings(&tokens, "m").unwrap_err();
    assert_eq!(param(&error), (400, Some("input")));
}
