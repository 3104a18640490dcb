//! OpenAI's completions of a prompt, its older API: <https://platform.openai.com/docs/api-reference/completions>.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::{Answer, Piece};
use super::asked::Asked;
use super::connection::RawRequest;
use super::dialect::{Dialect, Events, Problem, Told};
use super::openai::{self, StreamOptions};
use super::wire::{push_chunk, put};

/// `POST …/completions`.
#[derive(Debug)]
pub(super) struct Completions;

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(borrow)]
    prompt: &'a RawValue,
}

impl Dialect for Completions {
    fn read<'a>(&self, request: &'a RawRequest) -> Result<Asked<'a>, &'static str> {
        let Ok(read) = serde_json::from_slice::<Request<'a>>(&request.body) else {
            return Err("the body is not a request for a completion");
        };
        let asked = Asked {
            stream: read.stream == Some(true),
            include_usage: read.stream_options.is_some_and(|o| o.include_usage),
            ..Asked::new(read.model, read.prompt.get())
        };
        openai::at_azure(request, asked)
    }

    fn key<'a>(&self, request: &'a RawRequest) -> Option<&'a str> {
        openai::key(request)
    }

    fn whole(&self, answer: &Answer<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        push_start(answer, &mut out);
        push_choice(&mut out, Some(answer.finish()), |out| answer.push_text(out));
        out.extend_from_slice(br#"],"usage":"#);
        openai::push_usage(answer, &mut out);
        out.push(b'}');
        out
    }

    fn error(&self, problem: &Problem<'_>) -> Told {
        openai::error(problem)
    }

    fn events(&self) -> Option<&dyn Events> {
        Some(self)
    }
}

impl Events for Completions {
    /// Completions have no role to begin with.
    fn push_start(&self, _: &Answer<'_>, _: &mut Vec<u8>) {}

    fn push_piece(&self, answer: &Answer<'_>, index: u32, out: &mut Vec<u8>) {
        let Piece::Token(index) = answer.piece(index) else {
            return;
        };
        push_chunk(out, |event| {
            event.extend_from_slice(b"data: ");
            push_start(answer, event);
            push_choice(event, None, |event| answer.push_token(event, index));
            openai::push_event_end(answer, event);
        });
    }

    fn push_finish(&self, answer: &Answer<'_>, out: &mut Vec<u8>) {
        push_chunk(out, |event| {
            event.extend_from_slice(b"data: ");
            push_start(answer, event);
            push_choice(event, Some(answer.finish()), |_| {});
            openai::push_event_end(answer, event);
            if answer.asked.include_usage {
                event.extend_from_slice(b"data: ");
                push_start(answer, event);
                event.extend_from_slice(b"],\"usage\":");
                openai::push_usage(answer, event);
                event.extend_from_slice(b"}\n\n");
            }
        });
    }

    fn push_done(&self, out: &mut Vec<u8>) {
        openai::push_done(out);
    }
}

/// Everything up to the choices.
fn push_start(answer: &Answer<'_>, out: &mut Vec<u8>) {
    put(
        out,
        format_args!(
            r#"{{"id":"cmpl-mock-{}","object":"text_completion","created":{},"model":{},"choices":["#,
            answer.serial, answer.created, answer.asked.model_json
        ),
    );
}

fn push_choice(out: &mut Vec<u8>, finish: Option<&str>, text: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(br#"{"index":0,"text":""#);
    text(out);
    out.extend_from_slice(br#"","logprobs":null,"finish_reason":"#);
    match finish {
        Some(reason) => put(out, format_args!("\"{reason}\"}}")),
        None => out.extend_from_slice(b"null}"),
    }
}
