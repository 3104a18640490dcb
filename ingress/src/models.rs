//! What clients may write as `model`.

use std::collections::HashSet;

/// The models of the configuration.
#[derive(Debug)]
pub(crate) struct Models {
    in_order: Vec<String>,
    known: HashSet<String>,
}

impl Models {
    /// Models by their names, in the order in which they are listed; of a name given twice, the first counts.
    pub(crate) fn new(names: impl IntoIterator<Item = String>) -> Self {
        let mut known = HashSet::new();
        let in_order = names
            .into_iter()
            .filter(|name| known.insert(name.clone()))
            .collect();
        Self { in_order, known }
    }

    /// The names that are listed.
    pub(crate) fn names(&self) -> &[String] {
        &self.in_order
    }

    /// The name of the model that `asked` means; none when nobody serves it.
    pub(crate) fn resolve(&self, asked: &str) -> Option<&str> {
        self.known.get(asked).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_listed_once_and_in_order() {
        let models = Models::new(["b", "a", "b"].map(str::to_owned));
        assert_eq!(models.names(), ["b", "a"]);
        assert_eq!(models.resolve("a"), Some("a"));
        assert_eq!(models.resolve("c"), None);
    }
}
