//! A provider that answers from a script in the configuration, word by word, so that demos
//! and tests need no model.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use runtime::config::{ScriptLine, Timeouts};
use schemas::dialect::openai;
use schemas::event::Usage;
use tokio::time::{Instant, Sleep};

use super::assembly::Assembly;
use super::failure::Failure;
use super::{Adapter, Ask, Calling, Step, Trace};
use crate::router::Readiness;

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
}

impl Adapter for Scripted {
    fn readiness(&self, _: Instant) -> Readiness {
        Readiness::Ready
    }

    fn timeouts(&self) -> Option<Timeouts> {
        None
    }

    fn call(&self, ask: &Ask<'_>) -> Box<dyn Calling> {
        let reply = self.line.as_ref().map(|line| {
            let prompt = ask.chat.last_user_text();
            line.reply.replace(PROMPT, &prompt)
        });
        let words = words(reply.as_deref().unwrap_or_default());
        Box::new(Call {
            usage: Usage {
                prompt_tokens: openai::estimate_tokens(ask.chat.prompt_bytes),
                completion_tokens: i64::try_from(words.len()).unwrap_or(i64::MAX),
                ..Usage::default()
            },
            words,
            said: 0,
            choices: ask.chat.n.max(1),
            choice: 0,
            stage: Stage::Begin,
            stream: ask.chat.stream,
            model: Arc::clone(&self.model),
            line: self.line.clone(),
            pause: None,
            trace: Trace::default(),
        })
    }
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
    said: usize,
    choices: i32,
    /// The choice that is spoken next, or ended next.
    choice: i32,
    stage: Stage,
    stream: bool,
    model: Arc<str>,
    line: Option<Arc<ScriptLine>>,
    usage: Usage,
    pause: Option<Pin<Box<Sleep>>>,
    trace: Trace,
}

#[derive(Clone, Copy)]
enum Stage {
    Begin,
    Roles,
    Words,
    Finish,
    End,
}

impl Calling for Call {
    fn poll_step(&mut self, context: &mut Context<'_>, assembly: &mut Assembly) -> Poll<Step> {
        let Some(line) = self.line.clone() else {
            self.trace.status = Some(404);
            let text = br#"{"error":{"message":"no line of the script is for this model","code":"model_not_found"}}"#;
            return Poll::Ready(Step::Failed(Failure::status(404, text)));
        };
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
                if let Some(step) = self.word(&line, assembly) {
                    return Poll::Ready(step);
                }
                continue;
            }
            match self.stage {
                Stage::Begin => {
                    let status = line.status.unwrap_or(200);
                    self.trace.status = Some(status);
                    if status != 200 {
                        let text = br#"{"error":{"message":"an error by the script"}}"#;
                        return Poll::Ready(Step::Failed(Failure::status(status, text)));
                    }
                    self.stage = if self.stream {
                        Stage::Roles
                    } else {
                        Stage::Words
                    };
                }
                Stage::Roles => {
                    if let Some(step) = self.role(assembly) {
                        return Poll::Ready(step);
                    }
                }
                Stage::Words if line.cut_after == Some(self.said) => {
                    let failure = if assembly.is_empty() {
                        Failure::passing("the script cut the stream before any text")
                    } else {
                        Failure::cut()
                    };
                    return Poll::Ready(Step::Failed(failure));
                }
                Stage::Words if self.words.is_empty() => self.stage = Stage::Finish,
                Stage::Words if !line.delay.is_zero() && self.choice == 0 => {
                    self.pause = Some(Box::pin(tokio::time::sleep(line.delay)));
                }
                Stage::Words => {
                    if let Some(step) = self.word(&line, assembly) {
                        return Poll::Ready(step);
                    }
                }
                Stage::Finish => return Poll::Ready(self.finish(assembly)),
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
    fn role(&mut self, assembly: &mut Assembly) -> Option<Step> {
        if self.choice == self.choices {
            self.choice = 0;
            self.stage = Stage::Words;
            return None;
        }
        let identity = assembly.identity();
        let chunk =
            openai::role_chunk(identity, &self.model, self.choice, assembly.include_usage());
        self.choice += 1;
        assembly.own(&chunk, &self.model);
        Some(Step::Chunk {
            chunk,
            token: false,
        })
    }

    /// Says the next word in the next choice; the word is over when every choice has it.
    fn word(&mut self, line: &ScriptLine, assembly: &mut Assembly) -> Option<Step> {
        let word = self.words.front()?;
        let identity = assembly.identity();
        let include_usage = assembly.include_usage();
        let chunk = openai::text_chunk(identity, &self.model, self.choice, word, include_usage);
        assembly.own(&chunk, &self.model);
        self.choice += 1;
        if self.choice == self.choices {
            self.choice = 0;
            self.said += 1;
            self.words.pop_front();
            debug_assert!(line.cut_after.is_none_or(|cut| self.said <= cut));
        }
        self.stream.then_some(Step::Chunk { chunk, token: true })
    }

    /// Ends the next choice, and with the last one the answer.
    fn finish(&mut self, assembly: &mut Assembly) -> Step {
        let identity = assembly.identity();
        let include_usage = assembly.include_usage();
        let chunk = openai::finish_chunk(identity, &self.model, self.choice, "stop", include_usage);
        assembly.own(&chunk, &self.model);
        self.choice += 1;
        if self.choice == self.choices {
            self.stage = Stage::End;
            self.usage.completion_tokens = self
                .usage
                .completion_tokens
                .saturating_mul(i64::from(self.choices));
            assembly.report(self.usage);
            if !self.stream {
                return Step::Answer {
                    body: assembly.completion(&self.usage),
                    usage: Some(self.usage),
                };
            }
        }
        if self.stream {
            Step::Chunk {
                chunk,
                token: false,
            }
        } else {
            Step::Sign
        }
    }
}
