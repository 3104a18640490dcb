//! Chat requests between OpenAI's dialect and the form that stands between dialects.

use schemas::dialect::openai::{
    ChatRequest, read_request, wants_function_calls, write_deepseek_request, write_request,
};
use schemas::model::{Chat, Effort, Media, Message, Part, Reasoning, Role, Source, ToolChoice};
use serde_json::{Value, json};

use crate::chats::{call, message, result};
use crate::recorded::fixture;

/// A request with one message and `fields`.
fn with(fields: Value) -> Chat {
    read_request(&body(fields)).unwrap()
}

fn body(fields: Value) -> Vec<u8> {
    let mut request = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    let Value::Object(fields) = fields else {
        panic!("no fields")
    };
    request.as_object_mut().unwrap().extend(fields);
    request.to_string().into_bytes()
}

fn refused(fields: Value) -> String {
    let body = body(fields);
    let error = read_request(&body).unwrap_err();
    assert_eq!(
        (error.status, error.kind.as_str()),
        (400, "invalid_request_error")
    );
    error.param.unwrap_or_default()
}

fn chat(messages: Vec<Message>) -> Chat {
    Chat {
        messages,
        n: 1,
        ..Chat::default()
    }
}

fn written(chat: &Chat, model: &str) -> Value {
    serde_json::from_slice(&write_request(chat, model).unwrap()).unwrap()
}

fn to_deepseek(chat: &Chat) -> Value {
    serde_json::from_slice(&write_deepseek_request(chat, "deepseek-chat").unwrap()).unwrap()
}

fn picture(url: &str) -> Part {
    Part::Image(Media {
        source: Source::Url(url.to_owned()),
        name: None,
        detail: None,
    })
}

#[test]
fn a_request_with_everything_is_read_and_written() {
    let chat = read_request(&fixture("chat.request.json")).unwrap();
    assert_eq!(
        chat.messages[1].parts[2],
        Part::Image(Media {
            source: Source::Base64 {
                media_type: "image/png".to_owned(),
                data: "iVBORw0KGgo=".to_owned(),
            },
            name: None,
            detail: None,
        })
    );
    assert_eq!(
        chat.messages[3],
        message(
            Role::User,
            vec![result("call_1", "18 degrees"), result("call_2", "noon")]
        )
    );
    assert_eq!(
        chat.tool_choice,
        Some(ToolChoice::Named("get_weather".to_owned()))
    );
    assert_eq!(chat.reasoning, Some(Reasoning::Effort(Effort::Low)));
    assert_eq!((chat.tokens_max, chat.logprobs), (Some(300), Some(2)));
    assert_eq!(chat.metadata["ticket"], "7");
    let sent = write_request(&chat, "m").unwrap();
    let expected: Value = serde_json::from_slice(&fixture("chat.upstream.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&sent).unwrap(), expected);
    // Schemas stay as they are written, digits included.
    assert!(std::str::from_utf8(&sent).unwrap().contains(r#""x": 1.50"#));
    assert!(ChatRequest::parse(&sent).is_ok());
}

#[test]
fn functions_of_old_are_tools() {
    let body = fixture("functions.request.json");
    assert!(wants_function_calls(&body));
    assert!(!wants_function_calls(&fixture("chat.request.json")));
    let chat = read_request(&body).unwrap();
    let paris = call("function_call_1", "get_weather", r#"{"city":"Paris"}"#);
    let rome = call("function_call_3", "get_weather", r#"{"city":"Rome"}"#);
    let parts: Vec<_> = chat
        .messages
        .iter()
        .map(|message| message.parts.clone())
        .collect();
    assert_eq!(
        parts[1..],
        [
            vec![paris],
            vec![result("function_call_1", "18")],
            vec![rome],
            vec![result("function_call_3", "25")],
        ]
    );
    assert_eq!(chat.tools[0].name, "get_weather");
    assert_eq!(
        chat.tool_choice,
        Some(ToolChoice::Named("get_weather".to_owned()))
    );
    let orphan = json!({"messages": [{"role": "function", "name": "f", "content": "1"}]});
    assert_eq!(refused(orphan), "messages.[0].name");
}

#[test]
fn every_form_of_a_choice_of_tools_is_read() {
    let tools = json!([
        {"type": "function", "function": {"name": "a"}},
        {"type": "function", "function": {"name": "b"}},
    ]);
    let choice = |choice: Value| {
        let chat = with(json!({"tools": tools, "tool_choice": choice}));
        let names: Vec<_> = chat.tools.into_iter().map(|tool| tool.name).collect();
        (chat.tool_choice, names.join(" "))
    };
    let all = || "a b".to_owned();
    assert_eq!(choice(json!(null)), (None, all()));
    assert_eq!(choice(json!("auto")), (Some(ToolChoice::Auto), all()));
    assert_eq!(choice(json!("none")), (Some(ToolChoice::None), all()));
    assert_eq!(
        choice(json!("required")),
        (Some(ToolChoice::Required), all())
    );
    assert_eq!(
        choice(json!({"type": "function", "function": {"name": "b"}})),
        (Some(ToolChoice::Named("b".to_owned())), all())
    );
    let allowed = json!({"type": "allowed_tools", "allowed_tools": {
        "mode": "required", "tools": [{"type": "function", "function": {"name": "b"}}],
    }});
    assert_eq!(
        choice(allowed),
        (Some(ToolChoice::Required), "b".to_owned())
    );
}

#[test]
fn reasoning_is_asked_for_in_both_words() {
    let effort = |effort| Some(Reasoning::Effort(effort));
    let cases = [
        (json!({}), None),
        (json!({"reasoning_effort": "none"}), Some(Reasoning::Off)),
        (
            json!({"reasoning_effort": "minimal"}),
            effort(Effort::Minimal),
        ),
        (
            json!({"reasoning_effort": "medium"}),
            effort(Effort::Medium),
        ),
        (json!({"reasoning_effort": "xhigh"}), effort(Effort::High)),
        (
            json!({"thinking": {"type": "enabled"}}),
            effort(Effort::High),
        ),
        (
            json!({"thinking": {"type": "enabled"}, "reasoning_effort": "low"}),
            effort(Effort::Low),
        ),
        (
            json!({"thinking": {"type": "disabled"}, "reasoning_effort": "high"}),
            Some(Reasoning::Off),
        ),
    ];
    for (fields, expected) in cases {
        assert_eq!(with(fields.clone()).reasoning, expected, "{fields}");
    }
    let sent = |reasoning| {
        let chat = Chat {
            reasoning: Some(reasoning),
            ..with(json!({}))
        };
        let (openai, deepseek) = (written(&chat, "m"), to_deepseek(&chat));
        (
            openai["reasoning_effort"].clone(),
            deepseek["thinking"]["type"].clone(),
            deepseek["reasoning_effort"].clone(),
        )
    };
    let cases = [
        (Reasoning::Off, json!("none"), "disabled", json!(null)),
        (
            Reasoning::Effort(Effort::Minimal),
            json!("minimal"),
            "enabled",
            json!("low"),
        ),
        (
            Reasoning::Effort(Effort::High),
            json!("high"),
            "enabled",
            json!("high"),
        ),
        (
            Reasoning::Tokens(4_095),
            json!("low"),
            "enabled",
            json!("low"),
        ),
        (
            Reasoning::Tokens(4_096),
            json!("medium"),
            "enabled",
            json!("medium"),
        ),
        (
            Reasoning::Tokens(16_384),
            json!("high"),
            "enabled",
            json!("high"),
        ),
    ];
    for (reasoning, openai, thinking, deepseek) in cases {
        assert_eq!(
            sent(reasoning),
            (openai, json!(thinking), deepseek),
            "{reasoning:?}"
        );
    }
    let none = written(&with(json!({})), "m");
    assert!(none.get("reasoning_effort").is_none() && none.get("thinking").is_none());
}

#[test]
fn the_limit_has_the_name_that_the_model_takes() {
    let limit = |model: &str, fields: Value| {
        let sent = written(&with(fields), model);
        ["max_tokens", "max_completion_tokens"].map(|name| sent[name].as_i64())
    };
    let plain = json!({"max_tokens": 7});
    for model in [
        "gpt-4o",
        "gpt-oss-120b",
        "llama",
        "olmo",
        "deepseek/deepseek-chat",
    ] {
        assert_eq!(limit(model, plain.clone()), [Some(7), None], "{model}");
    }
    for model in ["o3-mini", "gpt-5", "openai/o4-mini", "openai/gpt-5.1"] {
        assert_eq!(limit(model, plain.clone()), [None, Some(7)], "{model}");
    }
    let thinking = json!({"max_completion_tokens": 7, "reasoning_effort": "low"});
    assert_eq!(limit("mine", thinking), [None, Some(7)]);
    let both = json!({"max_completion_tokens": 7, "max_tokens": 9});
    assert_eq!(limit("mine", both), [Some(7), None]);
}

#[test]
fn what_other_dialects_cannot_say_is_refused_by_name() {
    let content = |part: Value| json!({"messages": [{"role": "user", "content": [part]}]});
    let cases = [
        (json!({"modalities": ["text", "audio"]}), "modalities"),
        (json!({"audio": {"voice": "alloy"}}), "audio"),
        (json!({"web_search_options": {}}), "web_search_options"),
        (
            json!({"tools": [{"type": "custom", "custom": {"name": "x"}}]}),
            "tools.[0].type",
        ),
        (
            json!({"tools": [{"type": "function", "function": {}}]}),
            "tools",
        ),
        (json!({"tools": [], "tool_choice": "maybe"}), "tool_choice"),
        (
            json!({"tools": [], "tool_choice": {"type": "custom"}}),
            "tool_choice",
        ),
        (
            json!({"functions": [], "function_call": {"x": 1}}),
            "function_call",
        ),
        (
            json!({"response_format": {"type": "grammar"}}),
            "response_format.type",
        ),
        (
            json!({"response_format": {"type": "json_schema"}}),
            "response_format.type",
        ),
        (json!({"reasoning_effort": "huge"}), "reasoning_effort"),
        (json!({"thinking": {"type": "maybe"}}), "thinking.type"),
        (json!({"stop": [1]}), "stop"),
        (json!({"metadata": {"a": 1}}), "metadata"),
        (json!({"logit_bias": {"a": "x"}}), "logit_bias"),
        (
            content(json!({"type": "video"})),
            "messages.[0].content.[0].type",
        ),
        (content(json!({"type": "text"})), "messages.[0].content.[0]"),
        (
            content(json!({"type": "text", "text": 1})),
            "messages.[0].content.[0]",
        ),
        (
            content(json!({"type": "image_url", "image_url": {"url": "data:image/png,abc"}})),
            "messages.[0].content.[0].image_url.url",
        ),
        (
            content(json!({"type": "file", "file": {"file_id": "file-1"}})),
            "messages.[0].content.[0].file.file_data",
        ),
        (
            json!({"messages": [{"role": "tool", "content": "x"}]}),
            "messages.[0].tool_call_id",
        ),
        (
            json!({"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "type": "custom"}]}]}),
            "messages.[0].tool_calls.[0].type",
        ),
        (
            json!({"messages": [
                {"role": "assistant", "content": "x", "prefix": true},
                {"role": "user", "content": "y"},
            ]}),
            "messages.[0].prefix",
        ),
        (json!({"temperature": 3}), "temperature"),
    ];
    for (fields, param) in cases {
        assert_eq!(refused(fields.clone()), param, "{fields}");
    }
}

#[test]
fn an_error_tells_the_fault_and_not_the_words() {
    let content = |part: Value| json!({"messages": [{"role": "user", "content": [part]}]});
    let secret = "data:image/png;base64,c2VjcmV0, expected nothing";
    for (fields, told) in [
        (
            content(json!({"type": "image_url", "image_url": secret})),
            "expected struct",
        ),
        (
            content(json!({"type": "image_url", "image_url": {secret: 1}})),
            "missing field `url`",
        ),
        (json!({"metadata": {"a": [secret]}}), "expected a string"),
        (
            json!({"parallel_tool_calls": null, "metadata": {"a": 1e300}}),
            "expected a string",
        ),
    ] {
        let error = read_request(&body(fields)).unwrap_err();
        assert!(error.message.contains(told), "{}", error.message);
        assert!(!error.message.contains("c2VjcmV0"), "{}", error.message);
    }
}

#[test]
fn what_openai_cannot_say_is_refused_by_name() {
    let media = |source: Source| Media {
        source,
        name: None,
        detail: None,
    };
    let url = || media(Source::Url("https://example.com/a".to_owned()));
    let hi = || Part::Text("hi".to_owned());
    let cases = [
        message(Role::System, vec![hi(), picture("https://example.com/a")]),
        message(Role::User, vec![Part::Document(url())]),
        message(Role::User, vec![Part::Audio(url())]),
        message(Role::Assistant, vec![Part::Image(url())]),
        Message {
            is_prefix: true,
            ..message(Role::Assistant, vec![hi()])
        },
    ];
    for said in cases {
        let chat = chat(vec![message(Role::User, vec![hi()]), said]);
        let error = write_request(&chat, "m").unwrap_err();
        assert_eq!(
            error.param.as_deref(),
            Some("messages.[1].content"),
            "{chat:?}"
        );
        assert_eq!(error.status, 400);
    }
}

#[test]
fn results_stand_behind_their_calls_and_pictures_behind_them() {
    let text = |text: &str| Part::Text(text.to_owned());
    let said = chat(vec![
        message(
            Role::Assistant,
            vec![call("a", "f", "{}"), call("b", "g", "{}")],
        ),
        message(
            Role::User,
            vec![
                text("And now?"),
                Part::ToolResult {
                    id: "a".to_owned(),
                    parts: vec![text("one"), picture("https://example.com/p"), text("two")],
                    is_error: false,
                },
                Part::ToolResult {
                    id: "b".to_owned(),
                    parts: vec![text("no such file")],
                    is_error: true,
                },
            ],
        ),
    ]);
    assert_eq!(
        written(&said, "m")["messages"].as_array().unwrap()[1..],
        [
            json!({"role": "tool", "tool_call_id": "a", "content": "one\ntwo"}),
            json!({"role": "tool", "tool_call_id": "b", "content": "Error: no such file"}),
            json!({"role": "user", "content": [
                {"type": "text", "text": "And now?"},
                {"type": "image_url", "image_url": {"url": "https://example.com/p"}},
            ]}),
        ]
    );
}

#[test]
fn deepseek_gets_its_own_words() {
    let request = json!({
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "early", "reasoning_content": "not needed"},
            {"role": "assistant", "content": null, "reasoning_content": "needed",
             "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c", "content": "1"},
            {"role": "assistant", "content": "```py\n", "prefix": true},
        ],
        "max_completion_tokens": 9, "user": "u", "seed": 1, "top_k": 3, "parallel_tool_calls": false,
        "response_format": {"type": "json_object"},
    });
    let chat = with(request);
    assert!(chat.messages[4].is_prefix);
    let sent = to_deepseek(&chat);
    assert_eq!(
        sent,
        json!({
            "model": "deepseek-chat",
            "messages": [
                {"role": "user", "content": "a\nb"},
                {"role": "assistant", "content": "early"},
                {"role": "assistant", "content": null, "reasoning_content": "needed",
                 "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "c", "content": "1"},
                {"role": "assistant", "content": "```py\n", "prefix": true},
            ],
            "response_format": {"type": "json_object"},
            "max_tokens": 9,
            "stream": false,
        })
    );
    let cases = [
        (json!({"n": 2}), "n"),
        (json!({"logit_bias": {"1": 1}}), "logit_bias"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
            "response_format",
        ),
        (
            json!({"messages": [{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "https://example.com"}},
            ]}]}),
            "messages.[0].content",
        ),
    ];
    for (fields, param) in cases {
        let error = write_deepseek_request(&with(fields), "m").unwrap_err();
        assert_eq!(error.param.as_deref(), Some(param));
    }
}
