//! What one process may use of limits that all share.
//!
//! A process has a *part* of each limit and keeps to it by itself, so that no call asks anybody. Parts are either equal, by the
//! number of processes that live ([`Part::equal`]), or leased from Redis by what each wants ([`Leases::sync`]): fair, the sum
//! never above the limit, and free again for others [`LEASE`] after a process has fallen silent.

use std::fmt;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, ErrorKind, RedisError, Script, ServerErrorKind};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::config;

/// A part is another's this long after its process last asked. Processes have to ask several times in that time.
pub const LEASE: Duration = Duration::from_secs(5);
/// What cannot be divided, such as a single call at once, goes on to the next who wants it after so long.
const TURN: Duration = Duration::from_secs(2);
/// Processes ask at least as often as this, twice over: then Redis, when it has lost its memory, has heard all of them again.
const HEARD: Duration = Duration::from_secs(2);
/// Longest wait for Redis: a part is good for several times that.
const ANSWER_MAX: Duration = Duration::from_secs(1);
const SYNC: &str = include_str!("leases/sync.lua");

/// What one process wants of the limits of one thing, such as a deployment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand {
    /// Calls in progress.
    pub calls_used: usize,
    /// Those and the calls that wait.
    pub calls_wanted: usize,
    /// Calls a minute, of late and to come.
    pub requests_per_minute: f64,
    /// Tokens a minute, likewise.
    pub tokens_per_minute: f64,
}

/// The part of one process; none where there is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Part {
    /// Calls at once.
    pub calls: Option<usize>,
    /// Calls a minute.
    pub requests_per_minute: Option<f64>,
    /// Tokens a minute.
    pub tokens_per_minute: Option<f64>,
}

impl Part {
    /// The whole of the limits: nobody else is there.
    #[must_use]
    pub fn whole(limits: &config::Limits) -> Self {
        Self::equal(limits, 0, 1)
    }

    /// The part of the process of this `rank` (from 0) among `processes` that divide the limits equally. Each has at least one
    /// call at once, or it could never serve what it was given: with more processes than that the sum is above the limit.
    #[must_use]
    pub fn equal(limits: &config::Limits, rank: usize, processes: usize) -> Self {
        let processes = processes.max(1);
        let calls = |limit: usize| limit / processes + usize::from(rank < limit % processes);
        let rate = |limit: u64| limit as f64 / processes as f64;
        Self {
            calls: limits.concurrency.map(|limit| calls(limit).max(1)),
            requests_per_minute: limits.requests_per_minute.map(rate),
            tokens_per_minute: limits.tokens_per_minute.map(rate),
        }
    }
}

/// One claim of [`Leases::sync`].
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// What is limited, the same in all processes: `provider/model`.
    pub name: &'a str,
    /// Its limits.
    pub limits: &'a config::Limits,
    /// What this process wants.
    pub demand: Demand,
    /// Its part if all were equal: the most that it gets while Redis cannot know all of them.
    pub equal: Part,
}

/// Why there is no part to be had from Redis.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The URL is none.
    #[error("redis.url is not the URL of a Redis server")]
    Address(#[source] RedisError),
    /// It did not answer in time.
    #[error("Redis did not answer within {ANSWER_MAX:?}")]
    Silent,
    /// It refused, or the connection failed.
    #[error("Redis")]
    Failed(#[from] RedisError),
    /// What it answered is not what the script returns.
    #[error("Redis answered something else than a part")]
    Answer(#[from] serde_json::Error),
}

/// The parts that this process leases from Redis.
pub struct Leases {
    connection: ConnectionManager,
    script: Script,
    key_prefix: String,
    process: String,
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leases")
            .field("key_prefix", &self.key_prefix)
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

/// What is sent and stored, by dimension; only those that are limited.
#[derive(Debug, Serialize, Deserialize)]
struct Dimensions<T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    calls: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<T>,
}

#[derive(Debug, Serialize)]
struct Wanted {
    limit: f64,
    used: f64,
    wanted: f64,
    equal: f64,
    whole: bool,
}

/// Whether Redis can be looked for at `url`.
pub(crate) fn is_address(url: &str) -> bool {
    Client::open(url).is_ok()
}

impl Leases {
    /// Leases for the process of this name, which no other one has. Connects when first used, and again whenever it has to.
    ///
    /// # Errors
    /// [`LeaseError::Address`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(url: &SecretString, key_prefix: &str, process: &str) -> Result<Self, LeaseError> {
        let client = Client::open(url.expose_secret()).map_err(LeaseError::Address)?;
        let settings = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(ANSWER_MAX))
            .set_response_timeout(Some(ANSWER_MAX))
            // Whoever asks asks again soon.
            .set_number_of_retries(1);
        Ok(Self {
            connection: ConnectionManager::new_lazy_with_config(client, settings)
                .map_err(LeaseError::Address)?,
            script: Script::new(SYNC),
            key_prefix: key_prefix.to_owned(),
            process: process.to_owned(),
        })
    }

    /// Tells what this process wants, at least once a second, and returns its parts, in the order of the claims, each good for [`LEASE`]. What it
    /// has lost it must not use any more from now on; calls in progress stay its own.
    ///
    /// # Errors
    /// When Redis does not answer within a second, or not as it should. Parts may have changed all the same; the next call
    /// puts that right.
    ///
    /// # Cancel safety
    /// As an error.
    pub async fn sync(&self, claims: &[Claim<'_>]) -> Result<Vec<Part>, LeaseError> {
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = redis::pipe();
        for claim in claims {
            let mut call = self.script.key(self.key(claim.name));
            call.arg(&self.process)
                .arg(millis(LEASE))
                .arg(millis(TURN))
                .arg(millis(HEARD))
                .arg(serde_json::to_string(&wanted(claim))?);
            pipeline.invoke_script(&call);
        }
        let answers = tokio::time::timeout(ANSWER_MAX, self.run(&pipeline))
            .await
            .map_err(|_| LeaseError::Silent)??;
        answers.iter().map(|answer| part(answer)).collect()
    }

    /// Gives back the parts of this process, so that others need not wait until they are over.
    ///
    /// # Errors
    /// As [`Leases::sync`]; they are over after [`LEASE`] then.
    ///
    /// # Cancel safety
    /// As an error.
    pub async fn release(&self, names: &[&str]) -> Result<(), LeaseError> {
        if names.is_empty() {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        for name in names {
            pipeline.hdel(self.key(name), &self.process).ignore();
        }
        let mut connection = self.connection.clone();
        let released = pipeline.query_async::<()>(&mut connection);
        tokio::time::timeout(ANSWER_MAX, released)
            .await
            .map_err(|_| LeaseError::Silent)??;
        Ok(())
    }

    async fn run(&self, pipeline: &redis::Pipeline) -> Result<Vec<String>, RedisError> {
        let mut connection = self.connection.clone();
        match pipeline.query_async(&mut connection).await {
            // A server that was restarted has forgotten it.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.script.load_async(&mut connection).await?;
                pipeline.query_async(&mut connection).await
            }
            outcome => outcome,
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}limits:{name}", self.key_prefix)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn wanted(claim: &Claim<'_>) -> Dimensions<Wanted> {
    let Claim {
        limits,
        demand,
        equal,
        ..
    } = claim;
    let rate = |limit: u64, wanted: f64, equal: Option<f64>| Wanted {
        limit: limit as f64,
        used: 0.0,
        wanted: wanted.clamp(0.0, limit as f64),
        equal: equal.unwrap_or(limit as f64),
        whole: false,
    };
    Dimensions {
        calls: limits.concurrency.map(|limit| Wanted {
            limit: limit as f64,
            used: demand.calls_used as f64,
            wanted: demand.calls_wanted.min(limit) as f64,
            equal: equal.calls.unwrap_or(limit) as f64,
            whole: true,
        }),
        requests: limits
            .requests_per_minute
            .map(|limit| rate(limit, demand.requests_per_minute, equal.requests_per_minute)),
        tokens: limits
            .tokens_per_minute
            .map(|limit| rate(limit, demand.tokens_per_minute, equal.tokens_per_minute)),
    }
}

fn part(answer: &str) -> Result<Part, LeaseError> {
    let held: Dimensions<f64> = serde_json::from_str(answer)?;
    Ok(Part {
        // Whole and not negative, as the script has it.
        calls: held.calls.map(|calls| calls as usize),
        requests_per_minute: held.requests,
        tokens_per_minute: held.tokens,
    })
}

#[cfg(test)]
mod tests;
