//! Requests of other dialects, written for a provider of this one.

use schemas::dialect::anthropic::{MessagesRequest, write_request};
use schemas::model::{
    Chat, Effort, Format, Media, Message, Part, Reasoning, Role, Sampling, Source, Tool, ToolChoice,
};
use serde_json::{Value, json};

use super::{MODEL, raw, refusal, says, words};

fn chat(messages: Vec<Message>) -> Chat {
    Chat {
        messages,
        n: 1,
        ..Chat::default()
    }
}

fn asks(text: &str) -> Chat {
    chat(vec![says(Role::User, vec![words(text)])])
}

fn written(chat: &Chat) -> Value {
    let body = write_request(chat, MODEL).unwrap();
    assert!(
        MessagesRequest::parse(&body).is_ok(),
        "what is written is valid"
    );
    serde_json::from_slice(&body).unwrap()
}

#[test]
fn instructions_are_hoisted_and_turns_of_one_role_merged() {
    let result = |id: &str| Part::ToolResult {
        id: id.to_owned(),
        parts: vec![words("ok")],
        is_error: true,
    };
    let call = |id: &str, arguments: &str| Part::ToolCall {
        id: id.to_owned(),
        name: "f".to_owned(),
        arguments: arguments.to_owned(),
    };
    let chat = chat(vec![
        says(Role::System, vec![words("a")]),
        says(Role::User, vec![words("b"), words("")]),
        says(
            Role::Assistant,
            vec![
                Part::Reasoning {
                    text: "not sealed".to_owned(),
                    signature: None,
                },
                Part::Refusal("c".to_owned()),
            ],
        ),
        says(
            Role::Assistant,
            vec![call("1", ""), call("2", "{\"x\": 1.50}"), call("3", "{")],
        ),
        says(Role::User, vec![result("1")]),
        says(Role::User, vec![words("d")]),
        says(Role::System, vec![words("e")]),
        says(Role::User, vec![result("2")]),
    ]);
    let body = write_request(&chat, MODEL).unwrap();
    assert!(
        std::str::from_utf8(&body)
            .unwrap()
            .contains(r#""input":{"x": 1.50}"#)
    );
    let body = written(&chat);
    let text = |text: &str| json!({"type": "text", "text": text});
    assert_eq!(body["system"], json!([text("a"), text("e")]));
    let answer = |id: &str| json!({"type": "tool_result", "tool_use_id": id, "content": [text("ok")], "is_error": true});
    let called =
        |id: &str, input: Value| json!({"type": "tool_use", "id": id, "name": "f", "input": input});
    let expected = json!([
        {"role": "user", "content": [text("b")]},
        {"role": "assistant", "content": [
            text("c"), called("1", json!({})), called("2", json!({"x": 1.5})), called("3", json!({"INVALID_JSON": "{"})),
        ]},
        {"role": "user", "content": [answer("1"), answer("2"), text("d")]},
    ]);
    assert_eq!(body["messages"], expected);
    assert_eq!(body["max_tokens"], 4096);
}

#[test]
fn who_says_nothing_does_not_part_a_turn() {
    let mut chat = asks("a");
    chat.messages.push(says(Role::Assistant, vec![words("")]));
    chat.messages.push(says(Role::User, vec![words("b")]));
    let content = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    let expected = json!([{"role": "user", "content": content}]);
    assert_eq!(written(&chat)["messages"], expected);
}

#[test]
fn ids_of_calls_are_spelled_as_anthropic_takes_them() {
    let id = "functions.f:0".to_owned();
    let call = Part::ToolCall {
        id: id.clone(),
        name: "f".to_owned(),
        arguments: "{}".to_owned(),
    };
    let result = Part::ToolResult {
        id,
        parts: Vec::new(),
        is_error: false,
    };
    let mut chat = asks("hi");
    chat.messages.push(says(Role::Assistant, vec![call]));
    chat.messages.push(says(Role::User, vec![result]));
    let messages = &written(&chat)["messages"];
    assert_eq!(messages[1]["content"][0]["id"], "functions_f_0");
    assert_eq!(messages[2]["content"][0]["tool_use_id"], "functions_f_0");
}

#[test]
fn a_begun_answer_ends_without_blanks() {
    let begun = |text: &str| {
        let mut chat = asks("hi");
        chat.messages.push(says(Role::Assistant, vec![words(text)]));
        written(&chat)["messages"].clone()
    };
    let user = json!({"role": "user", "content": [{"type": "text", "text": "hi"}]});
    let assistant = json!({"role": "assistant", "content": [{"type": "text", "text": " The"}]});
    assert_eq!(begun(" The \n"), json!([user, assistant]));
    assert_eq!(begun(" "), json!([user]));
}

#[test]
fn media_are_written() {
    let sent = |part: Part| {
        let body = written(&chat(vec![says(Role::User, vec![part])]));
        body["messages"][0]["content"][0].clone()
    };
    let media = |media_type: &str, data: &str| Media {
        source: Source::Base64 {
            media_type: media_type.to_owned(),
            data: data.to_owned(),
        },
        name: Some("n".to_owned()),
        detail: Some("high".to_owned()),
    };
    let png = json!({"type": "base64", "media_type": "image/png", "data": "aGk="});
    let pdf = json!({"type": "base64", "media_type": "application/pdf", "data": "aGk="});
    let plain = json!({"type": "text", "media_type": "text/plain", "data": "hi"});
    let image = sent(Part::Image(media("image/png", "aGk=")));
    assert_eq!(image, json!({"type": "image", "source": png}));
    for (media_type, source) in [("application/pdf", pdf), ("text/csv", plain)] {
        let document = sent(Part::Document(media(media_type, "aGk=")));
        assert_eq!(
            document,
            json!({"type": "document", "source": source, "title": "n"})
        );
    }
    for part in [
        Part::Audio(media("audio/wav", "aGk=")),
        Part::Document(media("application/zip", "aGk=")),
        Part::Document(media("text/plain", "no base64")),
    ] {
        let chat = chat(vec![says(Role::User, vec![part])]);
        assert_eq!(
            refusal(write_request(&chat, MODEL)).as_deref(),
            Some("messages")
        );
    }
}

#[test]
fn tools_and_their_choice_are_written() {
    let tool = |parameters: Option<Value>, strict| Tool {
        name: "f".to_owned(),
        description: Some("d".to_owned()),
        parameters: parameters.as_ref().map(raw),
        strict,
    };
    let mut chat = asks("hi");
    chat.tools = vec![
        tool(None, None),
        tool(Some(json!({})), Some(false)),
        tool(Some(json!({"type": "object", "x": 1})), Some(true)),
    ];
    let tools = written(&chat)["tools"].clone();
    assert_eq!(
        tools,
        json!([
            {"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {}}},
            {"name": "f", "description": "d", "input_schema": {"type": "object"}},
            {"name": "f", "description": "d", "input_schema": {"type": "object", "x": 1}, "strict": true},
        ])
    );
    for (choice, parallel, expected) in [
        (None, None, Value::Null),
        (None, Some(true), Value::Null),
        (
            None,
            Some(false),
            json!({"type": "auto", "disable_parallel_tool_use": true}),
        ),
        (Some(ToolChoice::Auto), None, json!({"type": "auto"})),
        (Some(ToolChoice::None), Some(false), json!({"type": "none"})),
        (
            Some(ToolChoice::Required),
            Some(false),
            json!({"type": "any", "disable_parallel_tool_use": true}),
        ),
        (
            Some(ToolChoice::Named("f".to_owned())),
            Some(true),
            json!({"type": "tool", "name": "f"}),
        ),
    ] {
        chat.tool_choice = choice;
        chat.parallel_tool_calls = parallel;
        assert_eq!(written(&chat)["tool_choice"], expected);
    }
    chat.tools.clear();
    assert_eq!(
        written(&chat)["tool_choice"],
        Value::Null,
        "nothing to choose from"
    );
}

#[test]
fn thinking_and_format_are_written_as_the_model_takes_them() {
    let mut chat = asks("hi");
    chat.reasoning = Some(Reasoning::Effort(Effort::High));
    chat.sampling.temperature = Some(0.3);
    chat.format = Some(Format::JsonSchema {
        name: "n".to_owned(),
        description: None,
        schema: raw(&json!({"type": "object"})),
        strict: Some(true),
    });
    let format = json!({"type": "json_schema", "schema": {"type": "object"}});
    let body = written(&chat);
    assert_eq!(
        body["thinking"],
        json!({"type": "enabled", "budget_tokens": 24_576})
    );
    assert_eq!(body["max_tokens"], 28_672);
    assert_eq!(body["output_config"], json!({"format": format}));
    assert_eq!(body["temperature"], Value::Null);
    let body: Value =
        serde_json::from_slice(&write_request(&chat, "claude-opus-4-7").unwrap()).unwrap();
    assert_eq!(body["thinking"], json!({"type": "adaptive"}));
    assert_eq!(
        body["output_config"],
        json!({"effort": "high", "format": format})
    );
}

#[test]
fn what_anthropic_cannot_do_is_refused_by_its_name() {
    type Change = fn(&mut Chat);
    let cases: [(Change, &str); 6] = [
        (|chat| chat.n = 2, "n"),
        (|chat| chat.logprobs = Some(0), "logprobs"),
        (
            |chat| chat.format = Some(Format::JsonObject),
            "response_format",
        ),
        (|chat| chat.stop = vec!["\n".to_owned()], "stop"),
        (|chat| chat.messages[0].role = Role::System, "messages"),
        (|chat| chat.messages[0].parts.clear(), "messages"),
    ];
    for (change, param) in cases {
        let mut chat = asks("hi");
        change(&mut chat);
        assert_eq!(refusal(write_request(&chat, MODEL)).as_deref(), Some(param));
    }
}

#[test]
fn what_does_not_matter_is_left_out() {
    let mut chat = asks("hi");
    chat.messages[0].name = Some("ann".to_owned());
    chat.stop = vec![String::new()];
    chat.metadata.insert("k".to_owned(), "v".to_owned());
    chat.sampling = Sampling {
        presence_penalty: Some(1.0),
        frequency_penalty: Some(1.0),
        seed: Some(7),
        logit_bias: [("1".to_owned(), 2.0)].into(),
        ..Sampling::default()
    };
    let user = json!({"role": "user", "content": [{"type": "text", "text": "hi"}]});
    let expected = json!({"model": MODEL, "max_tokens": 4096, "messages": [user]});
    assert_eq!(written(&chat), expected);
}
