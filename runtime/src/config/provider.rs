//! Who offers models, and how they are reached.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::print;
use super::routing::Health;
use crate::secrets::SecretName;

/// One of `providers`.
#[derive(Debug, Clone)]
pub struct Provider {
    /// Unique name.
    pub name: String,
    /// How it is spoken to.
    pub kind: ProviderKind,
    /// When its deployments are taken out, and when they come back.
    pub health: Health,
    /// Whether its models go on with an assistant message that comes last. Default: whether the documented API of its kind
    /// does, which is so for `deepseek` and `anthropic`. Never for `azure`, `gemini` and `scripted`.
    pub continues: bool,
}

impl ProviderKind {
    /// Whether its documented API goes on with an assistant message that comes last.
    pub(super) fn takes_prefix(&self) -> bool {
        match self {
            Self::Http(http) => match http.api {
                Api::DeepSeek | Api::Anthropic => true,
                Api::OpenAi | Api::Azure | Api::Gemini => false,
            },
            Self::Scripted { .. } => false,
        }
    }

    /// Whether it can be asked to. Of OpenAI's dialect only some servers go on.
    pub(super) fn can_continue(&self) -> bool {
        match self {
            Self::Http(http) => match http.api {
                Api::OpenAi | Api::DeepSeek | Api::Anthropic => true,
                Api::Azure | Api::Gemini => false,
            },
            Self::Scripted { .. } => false,
        }
    }
}

impl Provider {
    /// Where its keys are.
    pub(super) fn keys(&self) -> &[KeySource] {
        match &self.kind {
            ProviderKind::Http(http) => &http.keys,
            ProviderKind::Scripted { .. } => &[],
        }
    }
}

/// How a provider is spoken to.
#[derive(Debug, Clone)]
pub enum ProviderKind {
    /// Over HTTP.
    Http(Http),
    /// `kind: scripted`: answers from a script.
    Scripted {
        /// Tried in order; the first whose `model` fits answers.
        script: Vec<ScriptLine>,
    },
}

/// A provider that is spoken to over HTTP.
#[derive(Clone)]
pub struct Http {
    /// What it speaks.
    pub api: Api,
    /// What the paths of the API come after.
    pub base_url: url::Url,
    /// `anthropic`: the header `anthropic-version`; `azure`: the parameter `api-version`, none for the API whose base
    /// ends in `/v1`. None where there are no versions.
    pub api_version: Option<String>,
    /// Where the keys are; empty: none is sent.
    pub keys: Vec<KeySource>,
    /// Time-outs of one attempt.
    pub timeouts: Timeouts,
}

/// What a provider over HTTP speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// `kind: openai`: OpenAI's API, as many servers have it.
    OpenAi,
    /// `kind: azure`: OpenAI's models on Azure.
    Azure,
    /// `kind: deepseek`: OpenAI's API with DeepSeek's extensions.
    DeepSeek,
    /// `kind: anthropic`: Anthropic's Messages API.
    Anthropic,
    /// `kind: gemini`: Google's Gemini API.
    Gemini,
}

/// Where a provider key is found.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// `{ env: NAME }`.
    Env {
        /// Name of the variable; also the key's name in the attempts.
        name: String,
        /// Its value at start; none when it was not set (reported as a fault for roles that need it).
        value: Option<SecretString>,
    },
    /// `{ file: PATH }`; trailing white space is cut.
    File(PathBuf),
    /// `{ secret: NAME }`: sealed in the store.
    Secret(SecretName),
}

impl KeySource {
    /// The key's name in attempts: the variable, the path or the secret's name, never the key.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Env { name, .. } => name.clone(),
            Self::File(path) => path.display().to_string(),
            Self::Secret(name) => name.to_string(),
        }
    }

    /// The key; a file is read anew each time. None when it is sealed in the store, whose snapshot has it.
    ///
    /// # Errors
    /// When the variable was not set at start, or the file cannot be read or is empty.
    pub fn secret(&self) -> std::io::Result<Option<SecretString>> {
        let missing = |what: String| std::io::Error::new(std::io::ErrorKind::NotFound, what);
        match self {
            Self::Env { name, value } => match value {
                Some(value) => Ok(Some(value.clone())),
                None => Err(missing(format!("variable {name} was not set at start"))),
            },
            Self::File(path) => {
                let text = std::fs::read_to_string(path)?;
                let key = text.trim_end();
                if key.is_empty() {
                    return Err(missing(format!("file {} is empty", path.display())));
                }
                Ok(Some(SecretString::from(key.to_owned())))
            }
            Self::Secret(_) => Ok(None),
        }
    }
}

/// Time-outs of one attempt.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Until the connection stands. Default 2 s.
    pub connect: Duration,
    /// Streamed calls: until the first token. Default 20 s.
    pub first_token: Duration,
    /// Streamed calls: between two events. Default 30 s.
    pub idle: Duration,
    /// One attempt as a whole. Default 120 s.
    pub total: Duration,
}

/// Time-outs of one attempt that differ from the provider's; none: they do not. That of the connection is the provider's
/// alone, since its connections serve all models.
#[derive(Debug, Clone, Copy, Default)]
pub struct TimeoutsOver {
    /// As [`Timeouts::first_token`].
    pub first_token: Option<Duration>,
    /// As [`Timeouts::idle`].
    pub idle: Option<Duration>,
    /// As [`Timeouts::total`].
    pub total: Option<Duration>,
}

impl TimeoutsOver {
    /// The provider's time-outs with these over them.
    #[must_use]
    pub fn over(self, provider: Timeouts) -> Timeouts {
        Timeouts {
            connect: provider.connect,
            first_token: self.first_token.unwrap_or(provider.first_token),
            idle: self.idle.unwrap_or(provider.idle),
            total: self.total.unwrap_or(provider.total),
        }
    }
}

/// One line of a scripted provider.
#[derive(Debug, Clone)]
pub struct ScriptLine {
    /// The deployment's model name that it answers for.
    pub model: String,
    /// The answer; `{prompt}` stands for the last user message.
    pub reply: String,
    /// Before each token. Default 0.
    pub delay: Duration,
    /// Answer with this HTTP status and an error instead.
    pub status: Option<u16>,
    /// Cut the stream after that many tokens.
    pub cut_after: Option<usize>,
}

// By hand: a URL's own `Debug` shows passwords.
impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("api", &self.api)
            .field("base_url", &print::without_secrets(&self.base_url))
            .field("api_version", &self.api_version)
            .field("keys", &self.keys)
            .field("timeouts", &self.timeouts)
            .finish()
    }
}
