//! What holds for all requests.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use schemas::dialect::gemini::{path, write_request};
use schemas::model::{Chat, Message, Part, Reasoning, Role, Sampling};
use serde_json::{Value, json};

use super::requests::{base64, call, hello, result, url};
use super::{json, message, param};

/// Any part, with ids of calls from a small set so that results meet their calls.
fn part() -> impl Strategy<Value = Part> {
    let leaf = prop_oneof![
        any::<String>().prop_map(Part::Text),
        any::<String>().prop_map(Part::Refusal),
        any::<(String, Option<String>)>()
            .prop_map(|(text, signature)| Part::Reasoning { text, signature }),
        any::<String>().prop_map(|text| Part::Image(url(&text))),
        any::<(String, String)>().prop_map(|(kind, data)| Part::Audio(base64(&kind, &data))),
        (0..4_u8, 0..3_u8, any::<String>()).prop_map(|(id, name, text)| {
            let arguments = json!({ "text": text }).to_string();
            call(&id.to_string(), &format!("f{name}"), &arguments)
        }),
    ];
    let results = (
        0..4_u8,
        any::<bool>(),
        proptest::collection::vec(any::<String>(), 0..3),
    );
    prop_oneof![
        4 => leaf,
        1 => results.prop_map(|(id, is_error, texts)| {
            let parts = texts.into_iter().map(Part::Text).collect();
            result(&id.to_string(), is_error, parts)
        }),
    ]
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    let role = prop_oneof![
        1 => Just(Role::System),
        3 => Just(Role::User),
        3 => Just(Role::Assistant),
    ];
    let message = (role, proptest::collection::vec(part(), 0..4)).prop_map(|(role, mut parts)| {
        if role == Role::System {
            parts.retain(|part| matches!(part, Part::Text(_)));
        }
        message(role, parts)
    });
    proptest::collection::vec(message, 1..8).prop_map(|mut messages| {
        // Results before their call are refused; that is another test's.
        let mut called = BTreeSet::new();
        for message in &mut messages {
            message.parts.retain(|part| match part {
                Part::ToolCall { id, .. } => {
                    called.insert(id.clone());
                    true
                }
                Part::ToolResult { id, .. } => called.contains(id),
                _ => true,
            });
        }
        messages
    })
}

/// All strings of a JSON value, joined.
fn strings(value: &Value, all: &mut Vec<String>) {
    match value {
        Value::String(text) => all.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, all)),
        Value::Object(members) => members.values().for_each(|item| strings(item, all)),
        _ => {}
    }
}

/// The texts of a conversation that have to reach the model.
fn texts(messages: &[Message]) -> Vec<String> {
    let mut all = Vec::new();
    for part in messages.iter().flat_map(|message| &message.parts) {
        match part {
            Part::Text(text) | Part::Refusal(text) | Part::Reasoning { text, .. } => {
                all.push(text.clone());
            }
            Part::ToolCall { arguments, .. } => {
                let arguments: Value = serde_json::from_str(arguments).unwrap();
                strings(&arguments, &mut all);
            }
            Part::ToolResult { parts, .. } => {
                all.extend(parts.iter().filter_map(|part| match part {
                    Part::Text(text) => Some(text.clone()),
                    _ => None,
                }));
            }
            _ => {}
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_text_arrives_and_every_result_names_its_function(messages in messages()) {
        let chat = Chat { messages, ..hello() };
        match write_request(&chat) {
            Ok(written) => {
                let written = json(&written);
                let mut found = Vec::new();
                strings(&written["contents"], &mut found);
                strings(&written["systemInstruction"], &mut found);
                for text in texts(&chat.messages) {
                    prop_assert!(found.iter().any(|found| found.contains(&text)), "{text:?}");
                }
                let mut names = BTreeMap::new();
                let mut roles = Vec::new();
                for content in written["contents"].as_array().unwrap() {
                    roles.push(content["role"].as_str().unwrap());
                    let parts = content["parts"].as_array().unwrap();
                    prop_assert!(!parts.is_empty());
                    let calls = parts.iter().filter(|part| part.get("functionCall").is_some());
                    let signed = calls.clone().filter(|part| part.get("thoughtSignature").is_some());
                    prop_assert_eq!(signed.count(), calls.count().min(1));
                    for part in parts {
                        let (call, response) = (&part["functionCall"], &part["functionResponse"]);
                        if call.is_object() {
                            names.insert(call["id"].to_string(), call["name"].clone());
                        }
                        if response.is_object() {
                            let name = names.get(&response["id"].to_string());
                            prop_assert_eq!(Some(&response["name"]), name);
                        }
                    }
                }
                prop_assert!(roles.windows(2).all(|two| two[0] != two[1]));
            }
            Err(error) => {
                prop_assert_eq!(param(&error), (400, Some("messages")));
                let speaks = |message: &Message| message.role != Role::System;
                let spoken: Vec<_> = chat.messages.into_iter().filter(speaks).collect();
                prop_assert!(texts(&spoken).concat().is_empty(), "nothing was said");
            }
        }
    }

    #[test]
    fn no_settings_panic(
        seed: Option<i64>,
        top_k: Option<i64>,
        tokens_max: Option<i64>,
        n: i32,
        logprobs: Option<i32>,
        tokens: i64,
        stop in proptest::collection::vec(any::<String>(), 0..8),
        temperature: Option<f64>,
    ) {
        let chat = Chat {
            sampling: Sampling { seed, top_k, temperature, ..Sampling::default() },
            tokens_max,
            n,
            logprobs,
            stop,
            reasoning: Some(Reasoning::Tokens(tokens)),
            ..hello()
        };
        match write_request(&chat) {
            Ok(written) => prop_assert!(json(&written)["generationConfig"].is_object()),
            Err(error) => prop_assert!(matches!(param(&error), (400, Some("seed" | "stop" | "logprobs")))),
        }
    }

    #[test]
    fn any_model_is_one_segment_of_the_path(model in "\\PC{0,12}") {
        let path = path(&model, false);
        let rest = path.strip_prefix("models/").unwrap();
        let name = rest.strip_suffix(":generateContent").unwrap();
        prop_assert!(!name.contains(['/', '?', '#', ':', '\\', ' ']));
        prop_assert!(path.is_ascii());
    }
}
