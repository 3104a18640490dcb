//! Checks between providers, models and deployments.

use std::collections::{BTreeMap, BTreeSet};

use super::super::reader::Notes;
use super::super::{Config, DEPLOYMENTS_MAX};

pub(super) fn check(config: &Config, notes: &Notes) {
    let mut providers = BTreeSet::new();
    for (index, provider) in config.providers.iter().enumerate() {
        if !provider.name.is_empty() && !providers.insert(provider.name.as_str()) {
            let problem = format!("there is another provider {:?}", provider.name);
            notes.fault(
                &format!("providers[{index}].name"),
                problem,
                "give each its own name",
            );
        }
    }
    let mut models = BTreeSet::new();
    for (index, model) in config.models.iter().enumerate() {
        let key = format!("models[{index}]");
        if !model.name.is_empty() && !models.insert(model.name.as_str()) {
            let problem = format!("there is another model {:?}", model.name);
            notes.fault(&format!("{key}.name"), problem, "give each its own name");
        }
        if model.deployments.is_empty() {
            notes.fault(
                &format!("{key}.deployments"),
                format!("model {:?} has nowhere to go", model.name),
                "write at least one { provider: …, model: … }",
            );
        }
        if model.deployments.len() > DEPLOYMENTS_MAX {
            notes.fault(
                &format!("{key}.deployments"),
                format!("{} are too many for one model", model.deployments.len()),
                format!("write at most {DEPLOYMENTS_MAX}"),
            );
        }
        let mut deployments = BTreeSet::new();
        for (place, deployment) in model.deployments.iter().enumerate() {
            let key = format!("{key}.deployments[{place}]");
            let provider = deployment.provider.as_str();
            if !provider.is_empty() && !providers.contains(provider) {
                let known: Vec<&str> = providers.iter().copied().collect();
                let known = if known.is_empty() {
                    "none".to_owned()
                } else {
                    known.join(", ")
                };
                notes.fault(
                    &format!("{key}.provider"),
                    format!("there is no provider {provider:?}"),
                    format!("add it to providers, or name one of them: {known}"),
                );
            }
            if !deployments.insert((provider, deployment.model.as_str())) {
                let problem = format!("{provider}/{} is there twice", deployment.model);
                notes.fault(&key, problem, "keep one and raise its weight");
            }
        }
    }
    names(config, notes);
    others(config, notes);
}

/// No two models have a name in common.
fn names(config: &Config, notes: &Notes) {
    let mut owners: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, model) in config.models.iter().enumerate() {
        owners.entry(model.name.as_str()).or_insert(index);
        if model.name.contains('*') {
            notes.fault(
                &format!("models[{index}].name"),
                "a name is one name, not a pattern",
                "give it a name without *, and write the pattern into aliases",
            );
        }
    }
    for (index, model) in config.models.iter().enumerate() {
        for alias in &model.aliases {
            if owners.insert(alias.as_str(), index).is_some() {
                notes.fault(
                    &format!("models[{index}].aliases"),
                    format!("{alias:?} is a name or alias of a model already"),
                    "remove it in one of the places",
                );
            }
        }
    }
}

/// Fallbacks and shadows are models, and others than their own.
fn others(config: &Config, notes: &Notes) {
    let known: BTreeSet<&str> = config
        .models
        .iter()
        .map(|model| model.name.as_str())
        .collect();
    for (index, model) in config.models.iter().enumerate() {
        let check = |key: &str, other: &str| {
            let key = format!("models[{index}].{key}");
            if other == model.name {
                notes.fault(&key, "a model cannot stand in for itself", "remove it");
            } else if !known.contains(other) {
                let problem = format!("there is no model {other:?}");
                notes.fault(&key, problem, "add it to models, or remove it here");
            }
        };
        let lists = [
            ("fallbacks.error", &model.fallbacks.error),
            ("fallbacks.context_length", &model.fallbacks.context_length),
            ("fallbacks.content_policy", &model.fallbacks.content_policy),
        ];
        for (key, list) in lists {
            for other in list {
                check(key, other);
            }
        }
        if let Some(shadow) = &model.shadow {
            check("shadow.model", &shadow.model);
        }
    }
}
