//! The part of the configuration that may change while a process runs.

use super::{Config, Model, Provider, print};
use crate::upstream::Policy;

/// Who offers models, and what clients may ask for.
#[derive(Debug, Clone)]
pub struct RoutingDocument {
    /// Who offers models.
    pub providers: Vec<Provider>,
    /// The models that clients may name.
    pub models: Vec<Model>,
    /// As [`Config::version`].
    pub version: String,
    /// Who wrote it.
    pub origin: Origin,
}

/// Who wrote a routing document, and so where its base URLs may lead.
#[derive(Debug, Clone)]
pub enum Origin {
    /// The configuration file: who writes it owns the machine, so its base URLs lead wherever they like.
    File,
    /// The API or a configuration centre: its base URLs lead only where this allows.
    Elsewhere(Policy),
}

impl Origin {
    /// What its base URLs are held to; none: they are trusted.
    #[must_use]
    pub fn policy(&self) -> Option<&Policy> {
        match self {
            Self::File => None,
            Self::Elsewhere(policy) => Some(policy),
        }
    }
}

impl Config {
    /// Its routing document.
    #[must_use]
    pub fn routing(&self) -> RoutingDocument {
        RoutingDocument {
            providers: self.providers.clone(),
            models: self.models.clone(),
            version: self.version(),
            origin: Origin::File,
        }
    }

    /// The sections besides the routing document in which `other` differs: what a running process cannot take on. Changes of
    /// secrets alone are not seen.
    #[must_use]
    pub fn differs_in(&self, other: &Self) -> Vec<String> {
        let sections = print::sections(other);
        print::sections(self)
            .into_iter()
            .zip(sections)
            .filter(|((name, ours), (_, theirs))| {
                !matches!(name.as_str(), "providers" | "models") && ours != theirs
            })
            .map(|((name, _), _)| name)
            .collect()
    }
}
