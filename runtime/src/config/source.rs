//! The file, the environment and the command line, laid over each other as one tree of values.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::{Config, Fault, Faults, Role, resolve};

/// What a variable of ours begins with; sections and keys follow, separated by two underscores.
const PREFIX: &str = "LOCKGATE__";

/// The environment, as far as it is text.
pub(super) type Variables = BTreeMap<String, String>;

pub(super) fn load(
    path: Option<&Path>,
    role: Option<Role>,
    overrides: &[(String, String)],
) -> Result<Config, Faults> {
    let (name, text) = match path {
        None => (String::new(), String::new()),
        Some(path) => {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path).map_err(|error| {
                Faults(vec![Fault {
                    key: name.clone(),
                    problem: format!("the file cannot be read ({error})"),
                    remedy: "name a readable YAML file".to_owned(),
                }])
            })?;
            (name, text)
        }
    };
    from_parts(&name, &text, &environment(), role, overrides)
}

/// Variables that are not text are left out: none of ours could be meant.
fn environment() -> Variables {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// [`load`] without the world around it.
pub(super) fn from_parts(
    file: &str,
    text: &str,
    variables: &Variables,
    role: Option<Role>,
    overrides: &[(String, String)],
) -> Result<Config, Faults> {
    let mut faults = Vec::new();
    let mut tree = match parse_file(text) {
        Ok(tree) => tree,
        Err(problem) => {
            faults.push(Fault {
                key: file.to_owned(),
                problem,
                remedy: "correct the file; docs/configuration.md has a whole example".to_owned(),
            });
            return Err(Faults(faults));
        }
    };
    // Which variable or option a key came from, for messages.
    let mut origins = BTreeMap::new();
    let from_variables = variables.iter().filter_map(|(name, text)| {
        let path = name.strip_prefix(PREFIX)?;
        let path = path.split("__").map(str::to_ascii_lowercase).collect();
        Some((name.clone(), path, text))
    });
    let from_overrides = overrides.iter().map(|(key, text)| {
        let path = key.split('.').map(str::to_owned).collect();
        (format!("option {key}"), path, text)
    });
    for (origin, path, text) in from_variables.chain(from_overrides) {
        let path = with_dots(path);
        match parse_scalar(text).and_then(|value| put(&mut tree, &path, value)) {
            Ok(key) => {
                origins.insert(key, origin);
            }
            Err(problem) => faults.push(Fault {
                key: origin,
                problem,
                remedy: "write one value as YAML; lists and maps in one line, as [a, b]".to_owned(),
            }),
        }
    }
    let config = resolve::config(tree, variables, role, &mut faults);
    for fault in &mut faults {
        if let Some(origin) = origins.get(&fault.key) {
            fault.problem = format!("{} (set by {origin})", fault.problem);
        }
    }
    if faults.is_empty() {
        Ok(config)
    } else {
        Err(Faults(faults))
    }
}

fn parse_file(text: &str) -> Result<Value, String> {
    // A file of nothing but comments is an empty one.
    let is_empty = text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "---"
    });
    if is_empty {
        return Ok(Value::Object(Map::new()));
    }
    // The snippet that the error could show may hold secrets.
    match serde_saphyr::from_str(text) {
        Ok(Value::Null) => Ok(Value::Object(Map::new())),
        Ok(tree @ Value::Object(_)) => Ok(tree),
        Ok(_) => Err("the file is not a map of sections".to_owned()),
        Err(error) => Err(match error.location() {
            Some(at) => format!(
                "line {}, column {} is not valid YAML or repeats a key",
                at.line(),
                at.column()
            ),
            None => "the file is not valid YAML".to_owned(),
        }),
    }
}

/// A YAML scalar, or a list or map in flow style. What would be a block (`a: b`) or no YAML at all is text.
fn parse_scalar(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    let is_flow = text.trim_start().starts_with(['[', '{', '"', '\'']);
    match serde_saphyr::from_str::<Value>(text) {
        Ok(value @ (Value::Array(_) | Value::Object(_))) if is_flow => Ok(value),
        Ok(Value::Array(_) | Value::Object(_)) => Ok(Value::String(text.to_owned())),
        Ok(value) => Ok(value),
        Err(_) if is_flow => Err("the value is not valid YAML".to_owned()),
        Err(_) => Ok(Value::String(text.to_owned())),
    }
}

/// Property and topic names have dots, which variable names cannot have: `LOCKGATE__LOG__PROPERTIES__SASL_PASSWORD`.
fn with_dots(mut path: Vec<String>) -> Vec<String> {
    let is_named = |section: &str| path.len() > 2 && path[0] == "log" && path[1] == section;
    if is_named("properties") {
        let name = path.split_off(2).join(".").replace('_', ".");
        path.push(name);
    } else if is_named("partitions") {
        let name = path.split_off(2).join(".");
        let plain = |name: &str| name.replace(['.', '-'], "_");
        let topic = schemas::topic::ALL
            .iter()
            .find(|topic| plain(topic.name) == plain(&name));
        path.push(topic.map_or(name, |topic| topic.name.to_owned()));
    }
    path
}

/// Puts `value` at `path`, making maps on the way; numbers are places in lists. Returns the key as faults name it.
fn put(tree: &mut Value, path: &[String], value: Value) -> Result<String, String> {
    let mut key = String::new();
    let mut place = tree;
    for name in path {
        if place.is_null() {
            *place = if name.parse::<usize>().is_ok() {
                Value::Array(Vec::new())
            } else {
                Value::Object(Map::new())
            };
        }
        place = match place {
            Value::Object(map) => {
                if !key.is_empty() {
                    key.push('.');
                }
                key.push_str(name);
                map.entry(name.clone()).or_insert(Value::Null)
            }
            Value::Array(list) => {
                let index: usize = name
                    .parse()
                    .map_err(|_| format!("{key} is a list, {name} is not a place in it"))?;
                if index == list.len() {
                    list.push(Value::Null);
                }
                let length = list.len();
                key.push_str(&format!("[{index}]"));
                list.get_mut(index)
                    .ok_or_else(|| format!("{key} is beyond the end of the list ({length})"))?
            }
            _ => return Err(format!("{key} is a single value, there is no {name} in it")),
        };
    }
    *place = value;
    Ok(key)
}
