//! Requests of this dialect, read for providers of others.

use schemas::dialect::anthropic::read_request;
use schemas::event::ErrorBody;
use schemas::model::{Chat, Effort, Format, Media, Part, Reasoning, Role, Source, ToolChoice};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{fixture, refusal, says, words};

#[test]
fn a_recorded_request_is_read() {
    let chat = read_request(fixture("tools/request.json").as_bytes()).unwrap();
    let expected = [
        says(
            Role::User,
            vec![words(
                "What is the weather like in Paris, and how late is it?",
            )],
        ),
        says(
            Role::Assistant,
            vec![
                Part::Reasoning {
                    text: "The user wants the weather.".to_owned(),
                    signature: Some("EqQBCgIYAhIM1gbcDa9GJwZA2b3h".to_owned()),
                },
                words("I'll look it up."),
                Part::ToolCall {
                    id: "toolu_01D7FLrfh4GYq7yT1ULFeyMV".to_owned(),
                    name: "get_weather".to_owned(),
                    arguments: r#"{"location": "Paris",  "digits": 1.50}"#.to_owned(),
                },
            ],
        ),
        says(
            Role::User,
            vec![
                Part::ToolResult {
                    id: "toolu_01D7FLrfh4GYq7yT1ULFeyMV".to_owned(),
                    parts: vec![words("15 degrees")],
                    is_error: false,
                },
                words("And in London?"),
            ],
        ),
    ];
    assert_eq!(chat.messages, expected);
    assert_eq!(chat.tool_choice, Some(ToolChoice::Required));
    assert_eq!(chat.parallel_tool_calls, Some(true));
    assert_eq!(chat.tokens_max, Some(1024));
    assert!(chat.stream);
    let [weather, time] = chat.tools.as_slice() else {
        panic!("two tools");
    };
    assert_eq!(weather.name, "get_weather");
    let description = "Get the current weather in a given location";
    assert_eq!(weather.description.as_deref(), Some(description));
    assert_eq!(weather.strict, None);
    let schema = time.parameters.as_deref().map(RawValue::get);
    assert_eq!(
        (schema, time.strict),
        (Some(r#"{"type": "object"}"#), Some(true))
    );

    let chat = read_request(fixture("text/request.json").as_bytes()).unwrap();
    let system = says(Role::System, vec![words("Answer in one word.")]);
    assert_eq!(chat.messages.first(), Some(&system));
    assert_eq!(chat.sampling.temperature, Some(0.7));
    assert_eq!(
        chat.user.as_deref(),
        Some("13803d75-b4b5-4c3e-b2a2-6f21399b021b")
    );

    let chat = read_request(fixture("thinking/request.json").as_bytes()).unwrap();
    assert_eq!(chat.reasoning, Some(Reasoning::Tokens(10_000)));
}

/// A request with the given messages and fields, read.
fn read(messages: Value, fields: Value) -> Result<Chat, ErrorBody> {
    let mut body = json!({"model": "m", "max_tokens": 9, "messages": messages});
    let object = body.as_object_mut().unwrap();
    object.extend(fields.as_object().unwrap().clone());
    read_request(body.to_string().as_bytes())
}

fn with(fields: Value) -> Result<Chat, ErrorBody> {
    read(json!([{"role": "user", "content": "hi"}]), fields)
}

fn block(block: Value) -> Result<Part, ErrorBody> {
    let chat = read(json!([{"role": "user", "content": [block]}]), json!({}))?;
    Ok(chat.messages[0].parts[0].clone())
}

#[test]
fn every_kind_of_block_is_read() {
    let media = |source, name: Option<&str>| Media {
        source,
        name: name.map(str::to_owned),
        detail: None,
    };
    let base64 = |media_type: &str, data: &str| Source::Base64 {
        media_type: media_type.to_owned(),
        data: data.to_owned(),
    };
    let png = json!({"type": "base64", "media_type": "image/png", "data": "aGk="});
    let url = json!({"type": "url", "url": "https://example.com/a"});
    let at = || Source::Url("https://example.com/a".to_owned());
    let plain = json!({"type": "text", "media_type": "text/plain", "data": "hi"});
    let image = |source: &Value| block(json!({"type": "image", "source": source})).unwrap();
    let document = |source: &Value| {
        block(json!({"type": "document", "source": source, "title": "t"})).unwrap()
    };
    assert_eq!(
        image(&png),
        Part::Image(media(base64("image/png", "aGk="), None))
    );
    assert_eq!(image(&url), Part::Image(media(at(), None)));
    assert_eq!(document(&url), Part::Document(media(at(), Some("t"))));
    let text = Part::Document(media(base64("text/plain", "aGk="), Some("t")));
    assert_eq!(document(&plain), text);
    assert_eq!(document(&json!({"type": "content", "content": "hi"})), text);
    let reasoning = |text: &str, signature: Option<&str>| Part::Reasoning {
        text: text.to_owned(),
        signature: signature.map(str::to_owned),
    };
    let thinking = block(json!({"type": "thinking", "thinking": "t", "signature": ""}));
    assert_eq!(thinking.unwrap(), reasoning("t", None));
    let sealed = block(json!({"type": "redacted_thinking", "data": "d"}));
    assert_eq!(sealed.unwrap(), reasoning("", Some("d")));
    let failed = block(json!({"type": "tool_result", "tool_use_id": "a", "is_error": true}));
    let expected = Part::ToolResult {
        id: "a".to_owned(),
        parts: Vec::new(),
        is_error: true,
    };
    assert_eq!(failed.unwrap(), expected);
    let seen = json!({"type": "tool_result", "tool_use_id": "a", "content": [
        {"type": "text", "text": "x"}, {"type": "image", "source": url},
    ]});
    let expected = Part::ToolResult {
        id: "a".to_owned(),
        parts: vec![words("x"), Part::Image(media(at(), None))],
        is_error: false,
    };
    assert_eq!(block(seen).unwrap(), expected);
}

#[test]
fn instructions_are_read_where_they_stand() {
    let messages = json!([
        {"role": "user", "content": [
            {"type": "text", "text": "a"},
            {"type": "mid_conv_system", "content": [{"type": "text", "text": "b"}]},
            {"type": "text", "text": "c"},
        ]},
        {"role": "system", "content": "d"},
        {"role": "assistant", "content": "e"},
    ]);
    let system = json!({"system": [{"type": "text", "text": "s"}, {"type": "text", "text": "t"}]});
    let chat = read(messages, system).unwrap();
    let mut expected = vec![
        says(Role::System, vec![words("s"), words("t")]),
        says(Role::User, vec![words("a")]),
        says(Role::System, vec![words("b")]),
        says(Role::User, vec![words("c")]),
        says(Role::System, vec![words("d")]),
        says(Role::Assistant, vec![words("e")]),
    ];
    expected[5].is_prefix = true;
    assert_eq!(chat.messages, expected);
}

#[test]
fn settings_are_read() {
    let choice = |choice: Value| {
        let chat = with(json!({"tool_choice": choice})).unwrap();
        (chat.tool_choice, chat.parallel_tool_calls)
    };
    assert_eq!(
        choice(json!({"type": "auto"})),
        (Some(ToolChoice::Auto), None)
    );
    assert_eq!(
        choice(json!({"type": "none"})),
        (Some(ToolChoice::None), None)
    );
    let named = json!({"type": "tool", "name": "f", "disable_parallel_tool_use": true});
    let expected = Some(ToolChoice::Named("f".to_owned()));
    assert_eq!(choice(named), (expected, Some(false)));
    let reasoning = |fields| with(fields).unwrap().reasoning;
    let adaptive = json!({"type": "adaptive"});
    assert_eq!(
        reasoning(json!({"thinking": {"type": "disabled"}})),
        Some(Reasoning::Off)
    );
    assert_eq!(reasoning(json!({"thinking": adaptive})), None);
    let between = json!({"type": "between_tools"});
    assert_eq!(reasoning(json!({"thinking": between})), None);
    for (word, effort) in [
        ("low", Effort::Low),
        ("medium", Effort::Medium),
        ("high", Effort::High),
        ("xhigh", Effort::High),
        ("max", Effort::High),
    ] {
        let config = json!({"effort": word});
        let expected = Some(Reasoning::Effort(effort));
        assert_eq!(reasoning(json!({"output_config": config})), expected);
        let both = json!({"output_config": config, "thinking": adaptive});
        assert_eq!(reasoning(both), expected);
    }
    let format = json!({"type": "json_schema", "schema": {"type": "object"}});
    for fields in [
        json!({"output_config": {"format": format}}),
        json!({"output_format": format}),
    ] {
        let format = with(fields).unwrap().format;
        let Some(Format::JsonSchema { schema, strict, .. }) = format else {
            panic!("{format:?}");
        };
        assert_eq!((schema.get(), strict), (r#"{"type":"object"}"#, Some(true)));
    }
    let fields = json!({
        "top_p": 0.5, "top_k": 7, "stop_sequences": ["x"], "metadata": {"user_id": "u", "k": "v"},
        "service_tier": "auto", "cache_control": {"type": "ephemeral"},
    });
    let chat = with(fields).unwrap();
    assert_eq!(
        (chat.sampling.top_p, chat.sampling.top_k),
        (Some(0.5), Some(7))
    );
    assert_eq!(
        (chat.stop, chat.user.as_deref()),
        (vec!["x".to_owned()], Some("u"))
    );
    assert_eq!(
        chat.metadata.into_iter().collect::<Vec<_>>(),
        [("k".to_owned(), "v".to_owned())]
    );
}

#[test]
fn what_only_anthropic_can_do_is_refused_by_its_name() {
    for (fields, param) in [
        (json!({"container": "c"}), "container"),
        (json!({"mcp_servers": [{}]}), "mcp_servers"),
        (json!({"inference_geo": "eu"}), "inference_geo"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (
            json!({"tools": [{"type": "web_search_20250305", "name": "w"}]}),
            "tools.[0]",
        ),
        (json!({"tool_choice": {"type": "new"}}), "tool_choice.type"),
        (json!({"thinking": {"type": "new"}}), "thinking.type"),
        (
            json!({"output_config": {"effort": "new"}}),
            "output_config.effort",
        ),
        (
            json!({"output_config": {"format": {"type": "xml"}}}),
            "output_config.format.type",
        ),
    ] {
        assert_eq!(refusal(with(fields)).as_deref(), Some(param));
    }
    let content = "messages.[0].content.[0]";
    for kind in [
        "server_tool_use",
        "web_search_tool_result",
        "container_upload",
        "search_result",
    ] {
        assert_eq!(
            refusal(block(json!({"type": kind}))).as_deref(),
            Some(content)
        );
    }
    let file = json!({"type": "document", "source": {"type": "file", "file_id": "f"}});
    assert_eq!(refusal(block(file)), Some(format!("{content}.source")));
    let cut = json!({"type": "tool_use", "id": "a", "name": "f"});
    assert_eq!(refusal(block(cut)), Some(format!("{content}.input")));
}
