use proptest::prelude::*;
use schemas::event::Piece;
use serde_json::{Value, json};

use super::*;

fn appended(body: &str, prefix: &str, mark: Mark) -> Value {
    let prefix = Prefix {
        text: prefix,
        tokens: 30,
    };
    serde_json::from_slice(&append(body.as_bytes(), prefix, mark)).unwrap()
}

#[test]
fn the_rest_has_what_is_left_of_the_limit() {
    let messages = r#""messages":[{"role":"user","content":"hi"}]"#;
    for (limits, left) in [
        (r#""max_tokens":100"#, json!([70, null])),
        (r#""max_completion_tokens":100"#, json!([null, 70])),
        (
            r#""max_tokens": 31 ,"max_completion_tokens":null"#,
            json!([1, null]),
        ),
        (
            r#""max_tokens":30,"max_completion_tokens":29"#,
            json!([1, 1]),
        ),
        (r#""top_p":1"#, json!([null, null])),
    ] {
        let before = format!("{{{limits},{messages}}}");
        let behind = format!("{{{messages} , {limits}}}");
        for body in [before, behind] {
            let asked = appended(&body, "x", Mark::All);
            let both = json!([asked["max_tokens"], asked["max_completion_tokens"]]);
            assert_eq!(both, left, "{body}");
            assert_eq!(asked["messages"][1]["content"], "x", "{body}");
            assert_eq!(asked["continue_final_message"], true, "{body}");
        }
    }
}

#[test]
fn the_beginning_of_the_answer_is_the_last_message() {
    let body = r#"{"model":"m", "messages" : [ {"role":"user","content":"hi"} ] ,"seed":12345678901234567890}"#;
    let asked = appended(body, "It \"is\"", Mark::All);
    assert_eq!(
        asked["messages"],
        json!([
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "It \"is\"", "prefix": true},
        ])
    );
    assert_eq!(asked["continue_final_message"], true);
    assert_eq!(asked["seed"], json!(12_345_678_901_234_567_890_u64));
    let first = appended(r#"{"messages":[ ]}"#, "x", Mark::All);
    assert_eq!(first["messages"].as_array().map(Vec::len), Some(1));
    let documented = appended(body, "x", Mark::Message);
    assert_eq!(documented["messages"][1]["prefix"], true);
    assert!(documented.get("continue_final_message").is_none());
}

#[test]
fn an_answer_that_the_client_began_goes_on_in_the_same_message() {
    let body = |prefix: bool| {
        let begun = json!({"role": "assistant", "content": "Once", "prefix": prefix, "name": "n"});
        json!({"messages": [{"role": "user", "content": "hi"}, begun]}).to_string()
    };
    let asked = appended(&body(true), " upon", Mark::Message);
    assert_eq!(
        asked["messages"][1],
        json!({"role": "assistant", "content": "Once upon", "prefix": true, "name": "n"})
    );
    assert_eq!(asked["messages"].as_array().map(Vec::len), Some(2));
    let ended = appended(&body(false), " upon", Mark::Message);
    assert_eq!(ended["messages"].as_array().map(Vec::len), Some(3));
}

/// The text of an answer that comes in `parts` behind `prefix`.
fn joined(prefix: &str, parts: &[&str]) -> String {
    let mut seam = Seam::of(Some(prefix));
    let mut text = prefix.to_owned();
    for part in parts {
        let mut said = Said {
            pieces: vec![Piece {
                choice: 0,
                channel: Channel::Text,
                index: 0,
                text: (*part).to_owned(),
            }],
            ..Said::default()
        };
        seam.join(&mut said);
        text.extend(said.pieces.into_iter().map(|piece| piece.text));
    }
    text
}

#[test]
fn blanks_at_the_seam_stand_once() {
    assert_eq!(joined("Hello ", &[" world"]), "Hello world");
    assert_eq!(joined("Hello ", &["world"]), "Hello world");
    assert_eq!(joined("Hello", &[" world"]), "Hello world");
    assert_eq!(joined("a\n\n", &["\n", "\n", " b"]), "a\n\n b");
    assert_eq!(joined("a\n\n", &["\n", "b", "\nc"]), "a\n\nb\nc");
    assert_eq!(joined("a ", &["\nb"]), "a \nb");
    assert_eq!(joined(" ", &["b", " c"]), " b c");
}

proptest! {
    #[test]
    fn a_model_that_goes_on_from_the_trimmed_beginning_joins_to_its_whole_text(
        whole in "[a-c \n\u{3000}]{0,12}",
        cut in 0_usize..12,
        size in 1_usize..4,
    ) {
        let characters: Vec<char> = whole.chars().collect();
        let cut = cut.min(characters.len());
        let prefix: String = characters[..cut].iter().collect();
        let rest: Vec<char> = whole[prefix.trim_end().len()..].chars().collect();
        let parts: Vec<String> = rest.chunks(size).map(|part| part.iter().collect()).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        prop_assert_eq!(joined(&prefix, &parts), whole);
    }
}
