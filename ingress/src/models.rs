//! What clients may write as `model`.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use runtime::config::{Model, Names, RoutingDocument};
use tokio::sync::watch;

/// The models of the configuration.
#[derive(Debug)]
pub(crate) struct Models {
    in_order: Vec<String>,
    /// Of all models of the configuration, by their places.
    by_place: Vec<String>,
    names: Names,
}

impl Models {
    /// Models in the order in which they are listed; of a name given twice, the first counts.
    pub(crate) fn new(models: &[Model]) -> Self {
        let mut seen = HashSet::new();
        let names = models.iter().map(|model| &model.name);
        Self {
            in_order: names.filter(|name| seen.insert(*name)).cloned().collect(),
            by_place: models.iter().map(|model| model.name.clone()).collect(),
            names: Names::new(models),
        }
    }

    /// The names that are listed.
    pub(crate) fn names(&self) -> &[String] {
        &self.in_order
    }

    /// The name of the model that `asked` means, by its name, an alias, a pattern or with a version; none when nobody
    /// serves it.
    pub(crate) fn resolve(&self, asked: &str) -> Option<&str> {
        let named = self.names.find(asked)?;
        self.by_place.get(named.model).map(String::as_str)
    }
}

/// The models in force; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct InForce(Arc<ArcSwap<Models>>);

impl InForce {
    pub(crate) fn new(models: &[Model]) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Models::new(models))))
    }

    pub(crate) fn load(&self) -> Guard<Arc<Models>> {
        self.0.load()
    }

    /// Puts the models of every document that comes into force, as long as any may come.
    pub(crate) async fn follow(self, mut documents: watch::Receiver<Arc<RoutingDocument>>) {
        while documents.changed().await.is_ok() {
            let models = Models::new(&documents.borrow_and_update().models);
            self.0.store(Arc::new(models));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_listed_once_and_in_order_and_found_by_their_aliases_too() {
        let a = Model {
            aliases: vec!["a-*".to_owned()],
            ..Model::new("a", Vec::new())
        };
        let models = Models::new(&[Model::new("b", Vec::new()), a.clone(), a]);
        assert_eq!(models.names(), ["b", "a"]);
        for (asked, name) in [("a", "a"), ("a-latest", "a"), ("b@2", "b")] {
            assert_eq!(models.resolve(asked), Some(name), "{asked}");
        }
        assert_eq!(models.resolve("c"), None);
    }
}
