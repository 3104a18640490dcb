use runtime::config::Strategy;
use serde_json::json;

use super::*;
use crate::samples;

fn of<T>(body: &serde_json::Value, read: impl FnOnce(&Members<'_>) -> T) -> T {
    let text = body.to_string();
    read(&serde_json::from_str(&text).unwrap())
}

#[test]
fn tokens_are_estimated_from_what_is_asked_in_any_dialect() {
    let text = "word ".repeat(4_000);
    let chat = json!({"messages": [{"role": "user", "content": text}], "max_tokens": 7});
    let tokens = of(&chat, |members| members.prompt_tokens());
    assert!((5_000..5_100).contains(&tokens), "{tokens}");
    assert_eq!(of(&chat, |members| members.answer_tokens()), Some(7));
    let messages = json!({"system": text, "messages": [], "max_tokens": 1});
    assert!(of(&messages, |members| members.prompt_tokens()) >= 5_000);
    let newer = json!({"messages": [], "max_tokens": null, "max_completion_tokens": 9});
    assert_eq!(of(&newer, |members| members.answer_tokens()), Some(9));
    assert_eq!(
        of(&json!({"prompt": "x"}), |members| members.answer_tokens()),
        None
    );
}

#[test]
fn a_picture_does_not_count_by_its_bytes_and_text_without_blanks_does() {
    let picture = format!("data:image/png;base64,{}", "iVBORw0KGgo".repeat(100_000));
    let tokens = of(&json!({"messages": [picture]}), |members| {
        members.prompt_tokens()
    });
    assert!((RUN_TOKENS..RUN_TOKENS + 50).contains(&tokens), "{tokens}");
    let chinese = "语言模型".repeat(1_000);
    let tokens = of(&json!({"messages": [chinese]}), |members| {
        members.prompt_tokens()
    });
    assert!(tokens >= 3_000, "{tokens}");
}

#[test]
fn requests_of_one_user_stick_and_those_without_do_not() {
    let user = |body: serde_json::Value| of(&body, |members| members.user());
    let anna = user(json!({"user": "anna"}));
    assert!(anna.is_some());
    assert_eq!(anna, user(json!({"metadata": {"user_id": "anna"}})));
    assert_ne!(anna, user(json!({"user": "otto"})));
    for nobody in [
        json!({}),
        json!({"user": ""}),
        json!({"user": null}),
        json!({"metadata": 3}),
    ] {
        assert_eq!(user(nobody), None);
    }
}

#[test]
fn requests_that_begin_alike_stick_whatever_follows() {
    let prefix = |system: &str, end: &str| {
        let body = json!({"messages": [
            {"role": "system", "content": system.repeat(5_000)},
            {"role": "user", "content": end},
        ]});
        of(&body, |members| members.prefix())
    };
    assert_eq!(prefix("a", "one"), prefix("a", "two"));
    assert_ne!(prefix("a", "one"), prefix("b", "one"));
}

fn request(attributes: &[(&str, &str)]) -> Request {
    let attributes = attributes.iter();
    Request {
        attributes: attributes
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..samples::request()
    }
}

#[test]
fn attributes_say_what_a_request_may_choose() {
    let asked = request(&[
        (DEPLOYMENT, "p/m"),
        (STRATEGY, "cost"),
        (TAGS, "eu,fast"),
        (GUARDED, "true"),
    ]);
    let wish = read(&asked, Some("2"), b"{}", Sticky::None, false).unwrap();
    assert_eq!(wish.deployment.as_deref(), Some("p/m"));
    assert_eq!(wish.strategy, Some(Strategy::Cost));
    assert_eq!(wish.tags, ["eu", "fast"]);
    assert_eq!(wish.version.as_deref(), Some("2"));
    assert!(is_guarded(&asked));
    assert!(!is_guarded(&request(&[])));
    let error = read(
        &request(&[(STRATEGY, "best")]),
        None,
        b"{}",
        Sticky::None,
        false,
    );
    let error = error.unwrap_err();
    assert_eq!(error.status, 400);
    assert!(
        error.message.contains("least_in_flight"),
        "{}",
        error.message
    );
}

#[test]
fn a_body_that_cannot_be_read_is_routed_all_the_same() {
    let wish = read(&request(&[]), None, b"\xff", Sticky::Prefix, true).unwrap();
    assert_eq!(wish.prompt_tokens, 0);
    assert_eq!(wish.sticky, None);
}
