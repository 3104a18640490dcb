//! A request in OpenAI's dialect that asks for the rest of an answer.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

/// `body` with the beginning of the answer as its last message, marked as such in the ways
/// that servers know: `prefix` of the message (DeepSeek, Mistral), `continue_final_message`
/// of the request (vLLM). As it is when it cannot be read.
pub(super) fn append(body: &[u8], prefix: &str) -> Bytes {
    #[derive(Deserialize)]
    struct Members<'b> {
        #[serde(borrow)]
        messages: &'b RawValue,
    }
    let Ok(members) = serde_json::from_slice::<Members<'_>>(body) else {
        return Bytes::copy_from_slice(body);
    };
    let messages = members.messages.get();
    // The raw value is a part of the body: this is where it ends.
    let start = messages.as_ptr() as usize - body.as_ptr() as usize;
    let end = start + messages.len() - 1;
    let message = serde_json::json!({"role": "assistant", "content": prefix, "prefix": true});
    let is_first = messages[1..messages.len() - 1].trim().is_empty();
    let mut text = Vec::with_capacity(body.len() + prefix.len() + 128);
    text.extend_from_slice(&body[..end]);
    if !is_first {
        text.push(b',');
    }
    text.extend_from_slice(message.to_string().as_bytes());
    text.push(b']');
    text.extend_from_slice(br#","continue_final_message":true,"add_generation_prompt":false"#);
    text.extend_from_slice(&body[end + 1..]);
    Bytes::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_the_answer_is_the_last_message() {
        let body = br#"{"model":"m", "messages" : [ {"role":"user","content":"hi"} ] ,"seed":12345678901234567890}"#;
        let asked = append(body, "It \"is\"");
        let asked: serde_json::Value = serde_json::from_slice(&asked).unwrap();
        assert_eq!(
            asked["messages"],
            serde_json::json!([
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "It \"is\"", "prefix": true},
            ])
        );
        assert_eq!(asked["continue_final_message"], true);
        assert_eq!(
            asked["seed"],
            serde_json::json!(12_345_678_901_234_567_890_u64)
        );
        let first = append(br#"{"messages":[ ]}"#, "x");
        let first: serde_json::Value = serde_json::from_slice(&first).unwrap();
        assert_eq!(first["messages"].as_array().map(Vec::len), Some(1));
    }
}
