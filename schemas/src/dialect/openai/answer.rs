//! Whole answers of a provider, rendered for the client.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::chunk::{Delta, Form, push, read_object};
use super::{finish, usage};
use crate::dialect::Identity;
use crate::dialect::fault;
use crate::dialect::json::{self, Object, quoted};
use crate::event::{Channel, ErrorBody, Piece, Usage};
use crate::fold::Text;
use crate::model;

/// A whole answer that was not streamed.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The answer in the client's rendering.
    pub body: Bytes,
    /// Usage, when the provider reported it.
    pub usage: Option<Usage>,
    /// The model that the provider says it is.
    pub model: Option<String>,
    /// What the choices say, finish reasons included.
    pub text: Text,
}

#[derive(Deserialize)]
struct Choice<'a> {
    index: Option<i32>,
    #[serde(borrow)]
    message: Option<Delta<'a>>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
}

/// Reads the body of a provider's answer to a request that was not streamed, and renders it
/// for the client: with the answer's `id` and `created` and with `model`; the rest stays byte
/// for byte.
///
/// # Errors
/// The provider's error, when the body is one despite its status. When the body is no answer
/// (not JSON, no `choices`, a choice without `message`), an error for which
/// [`super::is_malformed`] holds: another deployment may do better.
pub fn render_answer(body: &[u8], identity: &Identity, model: &str) -> Result<Answer, ErrorBody> {
    render(body, Form::Chat, identity, model)
}

pub(super) fn render(
    body: &[u8],
    form: Form,
    identity: &Identity,
    model: &str,
) -> Result<Answer, ErrorBody> {
    let object = read_object(body)?;
    let text = read_text(&object, form)?;
    let mut edit = object.edit();
    edit.set("id", quoted(&identity.id));
    edit.set("object", form.answer_object());
    edit.set("created", identity.created.to_string());
    edit.set("model", quoted(model));
    Ok(Answer {
        body: match edit.finish() {
            Some(text) => Bytes::from(text),
            None => Bytes::copy_from_slice(body),
        },
        usage: object.some("usage").and_then(usage::read),
        model: object.some("model").and_then(json::string).map(Into::into),
        text,
    })
}

/// Reads the body of a provider's answer to a request that was not streamed, for a client that
/// speaks another dialect.
///
/// # Errors
/// As [`render_answer`]; also when a choice ended for the provider's own failure
/// (`insufficient_system_resource`).
pub fn read_answer(body: &[u8]) -> Result<model::Answer, ErrorBody> {
    let object = read_object(body)?;
    let mut text = Text::default();
    for mut piece in read_text(&object, Form::Chat)?.pieces() {
        finish::to_model(&mut piece)?;
        text.push(&piece);
    }
    Ok(model::Answer {
        text,
        usage: object.some("usage").and_then(usage::read),
        model: object.some("model").and_then(json::string).map(Into::into),
    })
}

fn read_text(object: &Object<'_>, form: Form) -> Result<Text, ErrorBody> {
    let choices = object
        .some("choices")
        .ok_or_else(|| fault::malformed("no `choices`"))?;
    let choices: Vec<Choice<'_>> = serde_json::from_str(choices.get())
        .map_err(|_| fault::malformed("`choices` are no choices"))?;
    if choices.is_empty() {
        return Err(fault::malformed("empty `choices`"));
    }
    let mut pieces = Vec::new();
    for (position, choice) in (0..).zip(&choices) {
        let index = choice.index.unwrap_or(position);
        match (form, &choice.message, choice.text) {
            (Form::Chat, Some(message), _) => message.pieces(index, &mut pieces),
            (Form::Text, _, Some(text)) => push(&mut pieces, index, Channel::Text, 0, Some(text)),
            (Form::Chat, None, _) => return Err(fault::malformed("a choice without `message`")),
            (Form::Text, _, None) => return Err(fault::malformed("a choice without `text`")),
        }
        let reason = choice.finish_reason.and_then(json::string);
        if let Some(reason) = reason.filter(|reason| !reason.is_empty()) {
            pieces.push(Piece {
                choice: index,
                channel: Channel::Finish,
                index: 0,
                text: reason.into_owned(),
            });
        }
    }
    let mut text = Text::default();
    pieces.iter().for_each(|piece| text.push(piece));
    Ok(text)
}
