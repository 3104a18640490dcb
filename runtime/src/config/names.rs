//! What clients may write as `model`, and which model that is.

use std::collections::HashMap;

use super::Model;

/// The names of all models: their own, their aliases, and patterns among these.
#[derive(Debug, Clone, Default)]
pub struct Names {
    exact: HashMap<String, usize>,
    /// The longest literal text first.
    patterns: Vec<(String, usize)>,
}

/// What a name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named<'n> {
    /// Place of the model in the configuration.
    pub model: usize,
    /// The version that was asked for, as in `gpt-4@2024-08-06`.
    pub version: Option<&'n str>,
}

impl Names {
    /// The names of `models`; where two claim one, the first has it.
    #[must_use]
    pub fn new(models: &[Model]) -> Self {
        let mut exact = HashMap::new();
        let mut patterns = Vec::new();
        for (index, model) in models.iter().enumerate() {
            exact.entry(model.name.clone()).or_insert(index);
        }
        for (index, model) in models.iter().enumerate() {
            for alias in &model.aliases {
                if alias.contains('*') {
                    patterns.push((alias.clone(), index));
                } else {
                    exact.entry(alias.clone()).or_insert(index);
                }
            }
        }
        // The sort is stable: of two that say as much, the first in the configuration counts.
        patterns.sort_by_key(|(pattern, _)| {
            std::cmp::Reverse(pattern.bytes().filter(|byte| *byte != b'*').count())
        });
        Self { exact, patterns }
    }

    /// The model that `name` means: a model's name or alias, one of these with `@version`, or else the pattern with
    /// the longest literal text that fits.
    #[must_use]
    pub fn find<'n>(&self, name: &'n str) -> Option<Named<'n>> {
        if let Some(model) = self.exact.get(name) {
            return Some(Named {
                model: *model,
                version: None,
            });
        }
        if let Some((base, version)) = name.rsplit_once('@')
            && let Some(model) = self.exact.get(base)
        {
            return Some(Named {
                model: *model,
                version: Some(version),
            });
        }
        let found = self
            .patterns
            .iter()
            .find(|(pattern, _)| fits(pattern, name));
        found.map(|(_, model)| Named {
            model: *model,
            version: None,
        })
    }
}

/// Whether `name` is `pattern` with some text for every `*`.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    // The leftmost place for each part leaves the most for those after it.
    for part in parts {
        match rest.find(part) {
            Some(place) => rest = &rest[place + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(models: &[(&str, &[&str])]) -> Names {
        let models: Vec<Model> = models
            .iter()
            .map(|(name, aliases)| Model {
                aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
                ..Model::new(*name, Vec::new())
            })
            .collect();
        Names::new(&models)
    }

    fn model(names: &Names, name: &str) -> Option<usize> {
        names.find(name).map(|named| named.model)
    }

    #[test]
    fn a_name_goes_before_an_alias_and_an_alias_before_a_pattern() {
        let names = names(&[
            ("gpt-4", &["gpt-*", "b"]),
            ("b", &["gpt-4o"]),
            ("c", &["gpt-4*", "*mini", "a*b*c"]),
        ]);
        assert_eq!(model(&names, "gpt-4"), Some(0));
        assert_eq!(model(&names, "b"), Some(1));
        assert_eq!(model(&names, "gpt-4o"), Some(1));
        assert_eq!(model(&names, "gpt-4-turbo"), Some(2), "the longer literal");
        assert_eq!(model(&names, "gpt-3"), Some(0));
        assert_eq!(model(&names, "o-mini"), Some(2));
        assert_eq!(model(&names, "a-b-bc"), Some(2));
        assert_eq!(model(&names, "a-c-b"), None);
        assert_eq!(model(&names, "claude"), None);
    }

    #[test]
    fn a_version_follows_a_name_after_an_at_sign() {
        let names = names(&[("gpt-4", &["latest"]), ("odd@name", &[])]);
        let versioned = Named {
            model: 0,
            version: Some("2024"),
        };
        assert_eq!(names.find("gpt-4@2024"), Some(versioned));
        assert_eq!(names.find("latest@2024"), Some(versioned));
        assert_eq!(
            names.find("odd@name"),
            Some(Named {
                model: 1,
                version: None
            })
        );
        assert_eq!(names.find("gpt-5@2024"), None);
    }

    #[test]
    fn literal_parts_of_a_pattern_do_not_overlap() {
        assert!(fits("ab*ba", "abba"));
        assert!(!fits("ab*ba", "aba"));
        assert!(fits("*", ""));
        assert!(fits("a**b", "axb"));
    }
}
