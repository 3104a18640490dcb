//! Which deployment a call goes to. Pure: no clock, no I/O. What is known of the deployments
//! comes in by [`Fleet`], time and chance as arguments.

pub(crate) mod budget;
pub(crate) mod hash;
pub(crate) mod load;
mod plan;
mod set;
mod strategy;

use std::time::Duration;

use runtime::config::{Price, Strategy};

pub(crate) use plan::Plan;
use set::Set;
use strategy::Wheel;

/// Answer tokens that a request is taken to want when it does not say.
const ANSWER_TOKENS: i64 = 500;

/// The router of one model.
#[derive(Debug)]
pub(crate) struct Router {
    strategy: Strategy,
    seats: Vec<Seat>,
    all: Set,
    /// Every deployment takes requests up to this.
    tokens_min: i64,
    /// The deployments of each tier, the lowest tier first.
    tiers: Vec<Set>,
    /// How many out of a thousand may be out before those are called too.
    panic_permille: usize,
    wheel: Wheel,
}

/// What the configuration says of one deployment.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    /// `provider/model`.
    pub(crate) name: String,
    /// Share of the calls relative to the others.
    pub(crate) weight: u32,
    /// Lower ones first.
    pub(crate) tier: u32,
    /// Most tokens of prompt and answer together.
    pub(crate) context_tokens: Option<i64>,
    /// What it costs.
    pub(crate) price: Option<Price>,
    /// Marks by which requests can ask for it.
    pub(crate) tags: Vec<String>,
    /// Version by which requests can ask for it.
    pub(crate) version: Option<String>,
}

/// What is known of the deployments at this moment, by their place in the configuration.
pub(crate) trait Fleet {
    /// How a deployment stands; asked for all of them, so it has to be cheap.
    fn view(&self, deployment: usize) -> View;

    /// Decaying average of its time to the first token, microseconds; 0: not known. Asked for
    /// few of them.
    fn first_token_micros(&self, deployment: usize) -> u64;

    /// Whether the chosen one can be called at once. A `trial` is taken when it can.
    fn take(&self, deployment: usize, trial: bool) -> Readiness;
}

/// How a deployment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    /// What its health allows.
    pub(crate) standing: Standing,
    /// It has as many calls as it takes.
    pub(crate) full: bool,
    /// Calls given to it that have not ended.
    pub(crate) in_flight: u32,
}

/// What the health of a deployment allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It takes so many out of a thousand of the calls that would be its own.
    Open(u16),
    /// It is out, its rest is over, and one call may try it now.
    Trial,
    /// It is out.
    Out {
        /// For that long at least.
        rest: Duration,
        /// Whether one call may try it now if there is nobody else.
        trial: bool,
    },
}

/// What a request wants of its deployment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wish {
    /// In place of the model's strategy.
    pub(crate) strategy: Option<Strategy>,
    /// This deployment, `provider/model`, and no other.
    pub(crate) deployment: Option<String>,
    /// One with all of these tags.
    pub(crate) tags: Vec<String>,
    /// One of this version.
    pub(crate) version: Option<String>,
    /// Tokens of its prompt, estimated.
    pub(crate) prompt_tokens: i64,
    /// Most tokens of its answer; none: it does not say.
    pub(crate) answer_tokens: Option<i64>,
    /// Equal for requests that should meet at one deployment.
    pub(crate) sticky: Option<u64>,
}

/// Why no deployment of a model is for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// None has the name, tags or version.
    Unknown,
    /// It is too long for all of those that have.
    TooLong,
}

/// What a failed attempt means for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Another deployment may succeed, and later this one too.
    Passing,
    /// The stream broke off in the middle: as [`Class::Passing`], and another may go on with it.
    Cut,
    /// It was silent until a time-out: another deployment may succeed, this one is not asked again.
    Silent,
    /// A key was refused or has to rest: the next key, then the next deployment.
    Key,
    /// The request itself was refused; a twin would refuse it too.
    Refused,
    /// It was not called: it has no way to say what is asked for. Another may have.
    Unfit,
}

/// Whether a deployment can be called now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// It can.
    Ready,
    /// Every key of it rests, for that long at least.
    Rests(Duration),
    /// The provider refused every key of it.
    LockedOut,
    /// It cannot serve this request.
    Unfit,
}

impl Router {
    /// A router over `seats`, which are at least one; weights that are zero everywhere count as ones.
    pub(crate) fn new(strategy: Strategy, mut seats: Vec<Seat>, panic_threshold: f64) -> Self {
        if seats.iter().all(|seat| seat.weight == 0) {
            for seat in &mut seats {
                seat.weight = 1;
            }
        }
        seats.truncate(Set::SIZE);
        let mut tiers: Vec<u32> = seats.iter().map(|seat| seat.tier).collect();
        tiers.sort_unstable();
        tiers.dedup();
        let of_tier = |tier: &u32| {
            let places = seats.iter().enumerate();
            places
                .filter(|(_, seat)| seat.tier == *tier)
                .map(|(place, _)| place)
                .collect()
        };
        let limits = seats.iter().filter_map(|seat| seat.context_tokens);
        Self {
            strategy,
            all: (0..seats.len()).collect(),
            tokens_min: limits.min().unwrap_or(i64::MAX),
            tiers: tiers.iter().map(of_tier).collect(),
            panic_permille: (panic_threshold.clamp(0.0, 1.0) * 1_000.0).round() as usize,
            wheel: Wheel::new(&seats),
            seats,
        }
    }

    /// The deployments that `wish` allows, untried.
    ///
    /// # Errors
    /// [`Misfit`] when there is none.
    pub(crate) fn plan(&self, wish: &Wish) -> Result<Plan, Misfit> {
        let allowed = self.allowed(wish)?;
        // Most requests are short, and fit everywhere.
        let fitting = if wish.tokens() <= self.tokens_min {
            allowed
        } else {
            allowed.and(self.select(|seat| seat.fits(wish)))
        };
        if fitting.is_empty() {
            return Err(Misfit::TooLong);
        }
        Ok(self.plan_over(fitting, wish))
    }

    /// As [`Router::plan`], however long the request is: an estimate is not the last word.
    ///
    /// # Errors
    /// [`Misfit::Unknown`].
    pub(crate) fn plan_regardless(&self, wish: &Wish) -> Result<Plan, Misfit> {
        Ok(self.plan_over(self.allowed(wish)?, wish))
    }

    fn allowed(&self, wish: &Wish) -> Result<Set, Misfit> {
        let allowed = if wish.is_free() {
            self.all
        } else {
            self.select(|seat| seat.is_meant(wish))
        };
        if allowed.is_empty() {
            return Err(Misfit::Unknown);
        }
        Ok(allowed)
    }

    fn plan_over(&self, candidates: Set, wish: &Wish) -> Plan {
        Plan::new(
            candidates,
            wish.strategy.unwrap_or(self.strategy),
            wish.sticky,
            wish.prompt_tokens,
            wish.answer_tokens.unwrap_or(ANSWER_TOKENS),
        )
    }

    fn select(&self, mut wanted: impl FnMut(&Seat) -> bool) -> Set {
        let places = self.seats.iter().enumerate();
        places
            .filter(|(_, seat)| wanted(seat))
            .map(|(place, _)| place)
            .collect()
    }
}

impl Seat {
    fn is_meant(&self, wish: &Wish) -> bool {
        wish.deployment
            .as_ref()
            .is_none_or(|name| *name == self.name)
            && wish.tags.iter().all(|tag| self.tags.contains(tag))
            && wish
                .version
                .as_ref()
                .is_none_or(|version| self.version.as_ref() == Some(version))
    }

    fn fits(&self, wish: &Wish) -> bool {
        self.context_tokens.is_none_or(|most| wish.tokens() <= most)
    }
}

impl Wish {
    /// Any deployment will do that the request fits.
    fn is_free(&self) -> bool {
        self.deployment.is_none() && self.tags.is_empty() && self.version.is_none()
    }

    /// Tokens of prompt and answer together.
    fn tokens(&self) -> i64 {
        self.prompt_tokens
            .saturating_add(self.answer_tokens.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests;
