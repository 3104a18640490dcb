//! A provider that answers from a script in the configuration, word by word, so that demos
//! and tests need no model. It serves every operation: vectors are made of the text's hash.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use runtime::config::ScriptLine;
use schemas::dialect::openai;
use schemas::event::{Channel, ErrorBody, Piece, Usage};
use schemas::fold::Text;
use schemas::model::{Answer, Embeddings, Message, Part, Role, Said};
use schemas::request::Endpoint;
use tokio::time::{Instant, Sleep};

use super::assembly::Assembly;
use super::failure::Failure;
use super::operation::Operation;
use super::told::Told;
use super::wire::Whole;
use super::{Adapter, Ask, Calling, Step, Trace};
use crate::router::Readiness;

mod vector;

const PROMPT: &str = "{prompt}";

/// One model of a scripted provider.
#[derive(Debug, Clone)]
pub(crate) struct Scripted {
    model: Arc<str>,
    line: Option<Arc<ScriptLine>>,
}

impl Scripted {
    /// The deployment of `model` by the first line of `script` that is for it.
    pub(crate) fn new(script: &[ScriptLine], model: &str) -> Self {
        let line = script.iter().find(|line| line.model == model);
        Self {
            model: model.into(),
            line: line.cloned().map(Arc::new),
        }
    }

    /// What the script says before anything is written.
    fn refusal(&self) -> Option<(u16, ErrorBody)> {
        let Some(line) = &self.line else {
            let text = br#"{"error":{"message":"no line of the script is for this model","code":"model_not_found"}}"#;
            return Some((404, openai::read_error(404, text)));
        };
        let status = line.status.filter(|status| *status != 200)?;
        let text = br#"{"error":{"message":"an error by the script"}}"#;
        Some((status, openai::read_error(status, text)))
    }

    /// Vectors for what is asked.
    fn embeddings(&self, ask: &Ask<'_>) -> Result<Whole, ErrorBody> {
        let embed = openai::read_embeddings_request(ask.body)?;
        let vectors = embed.inputs.iter();
        Ok(Whole::Embeddings(Embeddings {
            vectors: vectors
                .map(|input| vector::of(input, embed.dimensions))
                .collect(),
            usage: None,
            model: Some(self.model.to_string()),
        }))
    }
}

impl Adapter for Scripted {
    fn serves(&self, endpoint: Endpoint) -> bool {
        match endpoint {
            Endpoint::ChatCompletions
            | Endpoint::Completions
            | Endpoint::Embeddings
            | Endpoint::Messages
            | Endpoint::CountTokens => true,
            Endpoint::Responses | Endpoint::Unknown => false,
        }
    }

    fn readiness(&self, _: Instant) -> Readiness {
        Readiness::Ready
    }

    fn call(&self, ask: &Ask<'_>) -> Box<dyn Calling> {
        if let Some((status, error)) = self.refusal() {
            return Box::new(Told::refused(status, error));
        }
        let asked = match ask.operation {
            Operation::Chat(chat) => Ok((chat.last_user_text().into_owned(), chat.n)),
            Operation::Completion(_) | Operation::Messages(_) => {
                let chat = ask.operation.chat(ask.body);
                chat.map(|chat| (last_user_text(&chat.messages), chat.n))
            }
            Operation::Embeddings(_) => {
                return match self.embeddings(ask) {
                    Ok(whole) => Box::new(Told::answer(whole)),
                    Err(error) => Box::new(Told::failed(Failure::unfit(error))),
                };
            }
            Operation::CountTokens(asked) => {
                let tokens = openai::estimate_tokens(asked.prompt_bytes);
                return Box::new(Told::answer(Whole::Tokens(tokens)));
            }
        };
        let (prompt, choices) = match asked {
            Ok(asked) => asked,
            Err(error) => return Box::new(Told::failed(Failure::unfit(error))),
        };
        let line = self.line.as_deref();
        let reply = line.map(|line| line.reply.replace(PROMPT, &prompt));
        let words = words(reply.as_deref().unwrap_or_default());
        let choices = choices.max(1);
        let written = i64::try_from(words.len()).unwrap_or(i64::MAX);
        Box::new(Call {
            usage: Usage {
                prompt_tokens: openai::estimate_tokens(ask.operation.prompt_bytes()),
                completion_tokens: written.saturating_mul(i64::from(choices)),
                ..Usage::default()
            },
            words,
            said: 0,
            choices,
            stage: Stage::Words,
            stream: ask.operation.stream(),
            model: Arc::clone(&self.model),
            text: Text::default(),
            delay: line.map(|line| line.delay).unwrap_or_default(),
            cut_after: line.and_then(|line| line.cut_after),
            pause: None,
            trace: Trace {
                status: Some(200),
                ..Trace::default()
            },
        })
    }
}

/// Text of the last message of the user; several parts are joined by line feeds.
fn last_user_text(messages: &[Message]) -> String {
    let mut last = messages.iter().rev();
    let last = last.find(|message| message.role == Role::User);
    let parts = last.iter().flat_map(|message| &message.parts);
    let texts: Vec<&str> = parts
        .filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    texts.join("\n")
}

/// The reply as tokens: words with the white space before them.
fn words(reply: &str) -> VecDeque<String> {
    let mut words = VecDeque::new();
    let mut word = String::new();
    for character in reply.chars() {
        if character.is_whitespace() && !word.trim().is_empty() {
            words.push_back(std::mem::take(&mut word));
        }
        word.push(character);
    }
    if !word.is_empty() {
        words.push_back(word);
    }
    words
}

struct Call {
    words: VecDeque<String>,
    /// Words so far.
    said: usize,
    choices: i32,
    stage: Stage,
    stream: bool,
    model: Arc<str>,
    /// Of an answer that is not streamed.
    text: Text,
    delay: Duration,
    cut_after: Option<usize>,
    usage: Usage,
    pause: Option<Pin<Box<Sleep>>>,
    trace: Trace,
}

#[derive(Clone, Copy)]
enum Stage {
    /// The next word is due, or the pause before it.
    Words,
    /// Every choice ends.
    Finish,
    End,
}

impl Calling for Call {
    fn poll_step(&mut self, context: &mut Context<'_>, assembly: &mut Assembly) -> Poll<Step> {
        loop {
            if let Some((chunk, token)) = assembly.chunk() {
                return Poll::Ready(Step::Chunk { chunk, token });
            }
            match self.stage {
                Stage::Words if self.cut_after == Some(self.said) => {
                    let failure = if self.said == 0 {
                        Failure::passing("the script cut the stream before any text")
                    } else {
                        Failure::cut()
                    };
                    return Poll::Ready(Step::Failed(failure));
                }
                Stage::Words if self.words.is_empty() => self.stage = Stage::Finish,
                Stage::Words => {
                    if !self.delay.is_zero() {
                        let delay = self.delay;
                        let pause = self
                            .pause
                            .get_or_insert_with(|| Box::pin(tokio::time::sleep(delay)));
                        ready!(pause.as_mut().poll(context));
                        self.pause = None;
                    }
                    let word = self.words.pop_front().unwrap_or_default();
                    self.said += 1;
                    self.say(Channel::Text, &word, assembly);
                }
                Stage::Finish => {
                    self.stage = Stage::End;
                    self.say(Channel::Finish, "stop", assembly);
                    if !self.stream {
                        return Poll::Ready(self.answer(assembly));
                    }
                }
                Stage::End => return Poll::Ready(Step::End),
            }
        }
    }

    fn poll_rest(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn trace(&self) -> &Trace {
        &self.trace
    }
}

impl Call {
    /// Says the same in every choice.
    fn say(&mut self, channel: Channel, text: &str, assembly: &mut Assembly) {
        let pieces = (0..self.choices).map(|choice| Piece {
            choice,
            channel,
            index: 0,
            text: text.to_owned(),
        });
        if self.stream {
            assembly.said(Said {
                pieces: pieces.collect(),
                usage: (channel == Channel::Finish).then_some(self.usage),
                model: Some(self.model.to_string()),
                is_end: false,
            });
        } else {
            pieces.for_each(|piece| self.text.push(&piece));
        }
    }

    fn answer(&mut self, assembly: &mut Assembly) -> Step {
        let answer = Answer {
            text: std::mem::take(&mut self.text),
            usage: Some(self.usage),
            model: Some(self.model.to_string()),
        };
        match assembly.told(Whole::Text(answer)) {
            Ok(body) => Step::Answer { body },
            Err(error) => Step::Failed(Failure::reported(error)),
        }
    }
}
