//! The answer of one attempt as it grows: what came, and how the client sees it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use schemas::dialect::Identity;
use schemas::dialect::openai::{self, Assembler};
use schemas::event::{Channel, Chunk, ErrorBody, Piece, Usage};
use schemas::fold::Text;
use schemas::model::Said;
use schemas::request::Request;

use super::operation::Operation;
use super::rendering::{self, Rendering};
use super::wire::Whole;

/// What came so far, and how to show it to the client.
#[derive(Debug)]
pub(crate) struct Assembly {
    came: Came,
    /// What of it attempts before this one wrote.
    before: Before,
    rendering: Box<dyn Rendering>,
}

/// What came so far, whatever the dialects.
#[derive(Debug)]
pub(crate) struct Came {
    /// What names the answer.
    pub(crate) identity: Identity,
    /// Text, finish reasons, and what of OpenAI's dialect stands beside them.
    pub(crate) assembler: Assembler,
    /// Usage as reported outside of a chunk of OpenAI's dialect.
    pub(crate) usage: Option<Usage>,
    /// Bytes of text of a whole answer.
    pub(crate) written_bytes: usize,
    /// The model that the provider says it is, by its first word on it.
    model: Option<String>,
    /// The model that was called.
    deployed: Arc<str>,
    prompt_bytes: usize,
    /// For the client, and not yet taken.
    chunks: VecDeque<Chunk>,
}

/// The length of a beginning that is gone on with.
#[derive(Debug, Clone, Copy, Default)]
struct Before {
    bytes: usize,
    tokens: i64,
}

impl Came {
    /// Learns which model answers. The first event tells: all chunks name one model.
    pub(crate) fn learn_model(&mut self, said: Option<String>) {
        if self.model.is_none() {
            let said = said.filter(|model| !model.is_empty());
            self.model = Some(said.unwrap_or_else(|| self.deployed.to_string()));
        }
    }

    /// The model that answers.
    pub(crate) fn model(&self) -> &str {
        self.model.as_deref().unwrap_or(&self.deployed)
    }

    /// Learns what `said` tells beside its pieces.
    pub(crate) fn learn(&mut self, said: &mut Said) {
        self.learn_model(said.model.take());
        if said.usage.is_some() {
            self.usage = said.usage;
        }
    }

    /// Keeps what was said.
    pub(crate) fn push(&mut self, pieces: Vec<Piece>) {
        let raw = Bytes::new();
        self.assembler.push_pieces(&Chunk { pieces, raw });
    }

    /// The text and usage of a whole answer.
    ///
    /// # Errors
    /// When it is no text, which is a fault of ours.
    pub(crate) fn text(&mut self, whole: Whole) -> Result<(Text, Usage), ErrorBody> {
        let Whole::Text(answer) = whole else {
            return Err(ErrorBody::internal());
        };
        self.learn_model(answer.model);
        self.written_bytes = answer.text.written_bytes();
        let usage = answer.usage.unwrap_or_else(|| self.estimate());
        self.usage = Some(usage);
        Ok((answer.text, usage))
    }

    /// Usage by the length of what was asked and of what came.
    pub(crate) fn estimate(&self) -> Usage {
        let written = self.assembler.text().written_bytes();
        openai::estimate_usage(self.prompt_bytes, written.max(self.written_bytes))
    }

    /// Puts a chunk up for the client.
    pub(crate) fn show(&mut self, chunk: Chunk) {
        self.chunks.push_back(chunk);
    }
}

impl Assembly {
    /// Nothing yet of the answer to `request`.
    pub(crate) fn new(request: &Request) -> Self {
        Self {
            came: Came {
                identity: Identity::new(request.endpoint, request.id, request.accepted_at),
                assembler: Assembler::default(),
                usage: None,
                written_bytes: 0,
                model: None,
                deployed: "".into(),
                prompt_bytes: 0,
                chunks: VecDeque::new(),
            },
            before: Before::default(),
            // Nothing comes before `begin`.
            rendering: rendering::of_nothing(),
        }
    }

    /// Another attempt begins, at a deployment of `model`: forgets what came.
    pub(crate) fn begin(&mut self, operation: &Operation<'_>, body: &Bytes, model: &Arc<str>) {
        let came = &mut self.came;
        came.assembler.clear();
        came.usage = None;
        came.written_bytes = 0;
        came.model = None;
        came.deployed = Arc::clone(model);
        came.prompt_bytes = operation.prompt_bytes();
        came.chunks.clear();
        self.before = Before::default();
        self.rendering = rendering::of(operation, body);
    }

    /// Takes in the data of an event from a provider that speaks the client's dialect; what the client sees of it are the next
    /// [`Assembly::chunk`]s. True: it says that nothing more comes.
    ///
    /// # Errors
    /// As [`Rendering::event`].
    pub(crate) fn event(&mut self, data: &Bytes) -> Result<bool, ErrorBody> {
        self.rendering.event(data, &mut self.came)
    }

    /// Takes in a whole answer from a provider that speaks the client's dialect, and gives it as the client reads it.
    ///
    /// # Errors
    /// As [`Rendering::whole`].
    pub(crate) fn whole(&mut self, body: &Bytes) -> Result<Bytes, ErrorBody> {
        self.rendering.whole(body, &mut self.came)
    }

    /// Takes in what an event from a provider of another dialect says; chunks as after [`Assembly::event`]. True: nothing more
    /// comes.
    pub(crate) fn said(&mut self, said: Said) -> bool {
        let is_end = said.is_end;
        self.rendering.said(said, &mut self.came);
        is_end
    }

    /// Takes in a whole answer from a provider of another dialect, and gives it as the client reads it.
    ///
    /// # Errors
    /// As [`Rendering::told`].
    pub(crate) fn told(&mut self, whole: Whole) -> Result<Bytes, ErrorBody> {
        self.rendering.told(whole, &mut self.came)
    }

    /// The next chunk for the client, and whether the model wrote something with it.
    pub(crate) fn chunk(&mut self) -> Option<(Chunk, bool)> {
        let chunk = self.came.chunks.pop_front()?;
        let token = is_token(&chunk);
        Some((chunk, token))
    }

    /// The stream ended properly: what is still due for the client are the next [`Assembly::chunk`]s.
    pub(crate) fn finish(&mut self, usage: &Usage) {
        self.rendering.finish(usage, &mut self.came);
    }

    /// Whether every choice that began has ended.
    pub(crate) fn is_finished(&self) -> bool {
        self.came.assembler.is_finished()
    }

    /// Whether nothing was written or ended.
    pub(crate) fn is_empty(&self) -> bool {
        self.came.assembler.text().is_empty()
    }

    /// Another attempt goes on with the text so far; how many tokens that is: for each attempt as estimated, and no fewer than
    /// reported.
    pub(crate) fn go_on(&mut self) -> i64 {
        let bytes = self.came.assembler.text().written_bytes();
        let estimate = openai::estimate_tokens(bytes.saturating_sub(self.before.bytes));
        let reported = self.reported().map_or(0, |usage| usage.completion_tokens);
        self.before = Before {
            bytes,
            tokens: self.before.tokens.saturating_add(reported.max(estimate)),
        };
        self.came.usage = None;
        self.came.assembler.forget_usage();
        // Chunks not yet taken stay: their text is part of what is gone on with.
        self.rendering.go_on(&self.came);
        self.before.tokens
    }

    /// The text so far, if another deployment could go on with it: there is some, nothing but text in the first choice, and
    /// what the client has can be gone on with.
    pub(crate) fn prefix(&self) -> Option<String> {
        if !self.rendering.can_go_on() {
            return None;
        }
        let mut prefix = None;
        for piece in self.came.assembler.text().pieces() {
            if piece.text.is_empty() {
                continue;
            }
            if piece.choice != 0 || piece.channel != Channel::Text {
                return None;
            }
            prefix = Some(piece.text);
        }
        prefix
    }

    /// Usage of the answer, which is whole: as reported, else estimated and marked so.
    pub(crate) fn whole_usage(&self) -> Usage {
        self.reported().unwrap_or_else(|| self.came.estimate())
    }

    /// Usage of what came of an answer that broke off: estimated and marked so, and no less than reported. What a provider tells
    /// while it writes lags behind its text.
    pub(crate) fn usage(&self) -> Usage {
        let estimate = self.came.estimate();
        match self.reported() {
            None => estimate,
            Some(reported) => Usage {
                completion_tokens: reported.completion_tokens.max(estimate.completion_tokens),
                estimated: true,
                ..reported
            },
        }
    }

    fn reported(&self) -> Option<Usage> {
        self.came.usage.or(self.came.assembler.usage())
    }

    /// The answer so far as a client reads it that did not ask for a stream.
    pub(crate) fn completion(&self, usage: &Usage) -> Bytes {
        self.rendering.so_far(usage, &self.came)
    }
}

/// A chunk with only a role, a finish reason, usage or empty text is not a token.
fn is_token(chunk: &Chunk) -> bool {
    let mut pieces = chunk.pieces.iter();
    pieces.any(|piece| piece.channel != Channel::Finish && !piece.text.is_empty())
}

#[cfg(test)]
mod tests {
    use schemas::request::{Dialect, Endpoint};

    use super::*;
    use crate::samples::request;

    const BODY: &[u8] =
        br#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;

    fn assembly() -> Assembly {
        let body = Bytes::from_static(BODY);
        let operation =
            Operation::parse(Endpoint::ChatCompletions, Dialect::OpenAi, &body).unwrap();
        let mut assembly = Assembly::new(&request());
        assembly.begin(&operation, &body, &"m".into());
        assembly
    }

    fn say(assembly: &mut Assembly, event: &str) {
        assembly.event(&Bytes::from(event.to_owned())).unwrap();
    }

    #[test]
    fn what_is_gone_on_with_reaches_the_client_though_the_call_was_cut_before_it_was_taken() {
        let mut assembly = assembly();
        say(
            &mut assembly,
            r#"{"id":"x","choices":[{"index":0,"delta":{"content":"Hel"}}]}"#,
        );
        assert_eq!(assembly.prefix().as_deref(), Some("Hel"));
        assert_eq!(assembly.go_on(), 1);
        let (chunk, token) = assembly
            .chunk()
            .expect("the text that the next call begins with");
        assert!(token);
        assert_eq!(chunk.pieces[0].text, "Hel");
    }

    #[test]
    fn the_tokens_of_a_beginning_are_those_of_all_who_wrote_it() {
        let mut assembly = assembly();
        let forty = "x".repeat(40);
        let text = format!(r#"{{"choices":[{{"index":0,"delta":{{"content":"{forty}"}}}}]}}"#);
        say(&mut assembly, &text);
        assert_eq!(assembly.go_on(), 10, "estimated");
        say(&mut assembly, &text);
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":30,"total_tokens":37}}"#;
        say(&mut assembly, usage);
        assert_eq!(assembly.go_on(), 40, "as reported");
        assert_eq!(assembly.go_on(), 40, "nothing came");
        let lags = usage.replace("30", "3");
        say(&mut assembly, &text);
        say(&mut assembly, &lags);
        assert_eq!(assembly.go_on(), 50, "what is reported lags behind");
        assert_eq!(
            assembly.whole_usage().completion_tokens,
            30,
            "all that came"
        );
    }
}
