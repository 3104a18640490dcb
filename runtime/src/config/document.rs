//! The part of the configuration that may change while a process runs.

use super::{Config, Model, Provider, print};

/// Who offers models, and what clients may ask for.
#[derive(Debug, Clone)]
pub struct RoutingDocument {
    /// Who offers models.
    pub providers: Vec<Provider>,
    /// The models that clients may name.
    pub models: Vec<Model>,
    /// As [`Config::version`].
    pub version: String,
}

impl Config {
    /// Its routing document.
    #[must_use]
    pub fn routing(&self) -> RoutingDocument {
        RoutingDocument {
            providers: self.providers.clone(),
            models: self.models.clone(),
            version: self.version(),
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
