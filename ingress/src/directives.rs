//! What the headers of a request tell the gateway; what they tell the model is in the body.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyper::HeaderMap;
use runtime::config::STRATEGIES;
use runtime::store::keys::Role;
use schemas::attribute::{ANTHROPIC_BETA, ANTHROPIC_VERSION, DEPLOYMENT, GUARDED, STRATEGY, TAGS};
use schemas::event::ErrorBody;

use crate::error;

/// Header by which a client lowers the deadline: `30s`, `1m 30s`, or seconds.
const TIMEOUT: &str = "lockgate-timeout";
const LIST_WORDS_MAX: usize = 32;
const WORD_CHARACTERS_MAX: usize = 64;
const DEPLOYMENT_CHARACTERS_MAX: usize = 256;

/// What a request asks of the gateway, checked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Directives {
    /// Longest that the request may take.
    pub(crate) timeout: Duration,
    /// What goes into the record, for the processors.
    pub(crate) attributes: BTreeMap<String, String>,
}

impl Directives {
    /// Reads the headers of a caller with `role`; no request takes longer than `longest`.
    pub(crate) fn read(
        headers: &HeaderMap,
        role: Role,
        longest: Duration,
    ) -> Result<Self, ErrorBody> {
        let mut attributes = BTreeMap::new();
        for (name, value) in [
            (TAGS, list(headers, TAGS)?),
            (ANTHROPIC_VERSION, version(headers)?),
            (ANTHROPIC_BETA, list(headers, ANTHROPIC_BETA)?),
            (GUARDED, guarded(headers)?),
            (DEPLOYMENT, deployment(headers, role)?),
            (STRATEGY, strategy(headers, role)?),
        ] {
            if let Some(value) = value {
                attributes.insert(name.to_owned(), value);
            }
        }
        Ok(Self {
            timeout: timeout(headers, longest)?,
            attributes,
        })
    }
}

fn timeout(headers: &HeaderMap, longest: Duration) -> Result<Duration, ErrorBody> {
    let Some(value) = text(headers, TIMEOUT) else {
        return Ok(longest);
    };
    duration(value)
        .filter(|timeout| !timeout.is_zero())
        .map(|timeout| timeout.min(longest))
        .ok_or_else(|| refuse(TIMEOUT, "a duration such as `30s`, or seconds"))
}

fn duration(text: &str) -> Option<Duration> {
    match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => humantime::parse_duration(text).ok(),
    }
}

/// A list of words, sorted and distinct, so that equal wishes look alike. Several headers are one list, and empty
/// elements count for nothing (RFC 9110 §5.3, §5.6.1).
fn list(headers: &HeaderMap, name: &str) -> Result<Option<String>, ErrorBody> {
    let refused = || {
        let expected = format!(
            "at most {LIST_WORDS_MAX} words with commas between them, each of at most {WORD_CHARACTERS_MAX} visible \
             ASCII characters"
        );
        refuse(name, &expected)
    };
    let mut words = BTreeSet::new();
    for value in headers.get_all(name) {
        let value = value.to_str().map_err(|_| refused())?;
        let elements = value.split(',').map(str::trim);
        for word in elements.filter(|word| !word.is_empty()) {
            words.insert(word);
            if !is_word(word, WORD_CHARACTERS_MAX) || words.len() > LIST_WORDS_MAX {
                return Err(refused());
            }
        }
    }
    let words: Vec<_> = words.into_iter().collect();
    Ok((!words.is_empty()).then(|| words.join(",")))
}

fn version(headers: &HeaderMap) -> Result<Option<String>, ErrorBody> {
    match text(headers, ANTHROPIC_VERSION) {
        None => Ok(None),
        Some(value) if is_word(value, WORD_CHARACTERS_MAX) => Ok(Some(value.to_owned())),
        Some(_) => {
            let expected = "a version such as `2023-06-01`";
            Err(refuse(ANTHROPIC_VERSION, expected))
        }
    }
}

fn guarded(headers: &HeaderMap) -> Result<Option<String>, ErrorBody> {
    match text(headers, GUARDED) {
        None | Some("false") => Ok(None),
        Some("true") => Ok(Some("true".to_owned())),
        Some(_) => Err(refuse(GUARDED, "`true` or `false`")),
    }
}

fn deployment(headers: &HeaderMap, role: Role) -> Result<Option<String>, ErrorBody> {
    let Some(value) = text(headers, DEPLOYMENT) else {
        return Ok(None);
    };
    may_route(DEPLOYMENT, role)?;
    let is_deployment = is_word(value, DEPLOYMENT_CHARACTERS_MAX)
        && value
            .split_once('/')
            .is_some_and(|(provider, model)| !provider.is_empty() && !model.is_empty());
    if !is_deployment {
        let expected = format!(
            "`provider/model`, at most {DEPLOYMENT_CHARACTERS_MAX} visible ASCII characters"
        );
        return Err(refuse(DEPLOYMENT, &expected));
    }
    Ok(Some(value.to_owned()))
}

fn strategy(headers: &HeaderMap, role: Role) -> Result<Option<String>, ErrorBody> {
    let Some(value) = text(headers, STRATEGY) else {
        return Ok(None);
    };
    may_route(STRATEGY, role)?;
    let words = STRATEGIES.map(|(word, _)| word);
    if !words.contains(&value) {
        let expected = format!("one of {}", words.join(", "));
        return Err(refuse(STRATEGY, &expected));
    }
    Ok(Some(value.to_owned()))
}

fn may_route(name: &str, role: Role) -> Result<(), ErrorBody> {
    match role {
        Role::Admin => Ok(()),
        Role::Member => Err(error::admins_only_header(name)),
    }
}

/// The header's text without white space around it; empty, which nothing here may be, when it is no text.
fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let value = headers.get(name)?;
    Some(value.to_str().map_or("", str::trim))
}

/// Whether it is 1 to `characters_max` visible ASCII characters.
fn is_word(text: &str, characters_max: usize) -> bool {
    (1..=characters_max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn refuse(name: &str, expected: &str) -> ErrorBody {
    ErrorBody::invalid_request(Some(name), format!("The header {name} must be {expected}."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};

    const LONGEST: Duration = Duration::from_secs(600);

    fn read(headers: &[(&'static str, &str)], role: Role) -> Result<Directives, ErrorBody> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            map.append(HeaderName::from_static(name), value);
        }
        Directives::read(&map, role, LONGEST)
    }

    /// The attribute that comes of a header of an admin; the status when it is refused.
    fn attribute(name: &'static str, value: &str) -> Result<Option<String>, i32> {
        let read = read(&[(name, value)], Role::Admin);
        read.map(|read| read.attributes.get(name).cloned())
            .map_err(|error| {
                assert_eq!(error.param.as_deref(), Some(name));
                error.status
            })
    }

    #[test]
    fn without_headers_nothing_is_asked() {
        let nothing = Directives {
            timeout: LONGEST,
            attributes: BTreeMap::new(),
        };
        assert_eq!(read(&[], Role::Member), Ok(nothing));
    }

    #[test]
    fn the_timeout_lowers_the_deadline_and_never_raises_it() {
        for (value, expected) in [
            ("30s", Some(30_000)),
            ("1m 30s", Some(90_000)),
            ("2", Some(2_000)),
            ("0.5", Some(500)),
            ("2h", Some(600_000)),
            ("0", None),
            ("-1", None),
            ("nan", None),
            ("inf", None),
            ("1e300", None),
            ("soon", None),
            ("", None),
        ] {
            let read = read(&[(TIMEOUT, value)], Role::Member).ok();
            let read = read.map(|read| read.timeout.as_millis());
            assert_eq!(read, expected, "{value:?}");
        }
    }

    #[test]
    fn tags_are_sorted_and_distinct_whatever_headers_they_come_in() {
        let headers = [(TAGS, "fast, eu"), (TAGS, "eu,gpu=a100")];
        let read = read(&headers, Role::Member).unwrap();
        assert_eq!(read.attributes[TAGS], "eu,fast,gpu=a100");
    }

    #[test]
    fn lists_are_bounded_and_their_empty_elements_ignored() {
        let list = |count: usize| {
            let words: Vec<_> = (0..count).map(|word| word.to_string()).collect();
            words.join(",")
        };
        let long = "x".repeat(WORD_CHARACTERS_MAX);
        for name in [TAGS, ANTHROPIC_BETA] {
            assert!(attribute(name, &list(LIST_WORDS_MAX)).is_ok());
            assert_eq!(attribute(name, &list(LIST_WORDS_MAX + 1)), Err(400));
            assert_eq!(attribute(name, &long), Ok(Some(long.clone())));
            assert_eq!(attribute(name, "a,, b,"), Ok(Some("a,b".to_owned())));
            assert_eq!(attribute(name, ""), Ok(None));
            for bad in ["a b", "ü", &format!("{long}x")] {
                assert_eq!(attribute(name, bad), Err(400), "{bad:?}");
            }
        }
    }

    #[test]
    fn a_version_is_any_word() {
        let version = "2026-10-21";
        assert_eq!(
            attribute(ANTHROPIC_VERSION, version),
            Ok(Some(version.to_owned()))
        );
        for bad in ["", "2023 06", "ü", &"9".repeat(WORD_CHARACTERS_MAX + 1)] {
            assert_eq!(attribute(ANTHROPIC_VERSION, bad), Err(400), "{bad:?}");
        }
    }

    #[test]
    fn guarded_is_true_or_false() {
        assert_eq!(attribute(GUARDED, "true"), Ok(Some("true".to_owned())));
        assert_eq!(attribute(GUARDED, "false"), Ok(None));
        for bad in ["", "1", "yes", "ü"] {
            assert_eq!(attribute(GUARDED, bad), Err(400), "{bad:?}");
        }
    }

    #[test]
    fn a_deployment_is_a_provider_and_a_model() {
        for good in ["p/m", "p/meta/llama-3", "p/m:latest"] {
            assert_eq!(attribute(DEPLOYMENT, good), Ok(Some(good.to_owned())));
        }
        let long = format!("p/{}", "m".repeat(DEPLOYMENT_CHARACTERS_MAX));
        for bad in ["", "p", "/m", "p/", "p/m m", "p/ü", &long] {
            assert_eq!(attribute(DEPLOYMENT, bad), Err(400), "{bad:?}");
        }
    }

    #[test]
    fn a_strategy_is_one_of_those_that_the_configuration_knows() {
        for (good, _) in STRATEGIES {
            assert_eq!(attribute(STRATEGY, good), Ok(Some(good.to_owned())));
        }
        for bad in ["", "fastest", "Weighted"] {
            assert_eq!(attribute(STRATEGY, bad), Err(400), "{bad:?}");
        }
    }

    #[test]
    fn only_admins_override_routing_whatever_the_value() {
        for (name, value) in [(DEPLOYMENT, "p/m"), (DEPLOYMENT, ""), (STRATEGY, "cost")] {
            let refused = read(&[(name, value)], Role::Member).unwrap_err();
            assert_eq!(refused.status, 403);
            assert!(refused.message.contains(name), "{}", refused.message);
        }
    }
}
