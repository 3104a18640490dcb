//! Who calls: the key in the request's headers.

use std::sync::Arc;

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderName};
use runtime::store::keys::{Key, KeySnapshot, Refusal, Role};
use schemas::event::ErrorBody;

use crate::error;

/// Where Anthropic's SDKs put the key.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The key behind `Authorization: Bearer lg_…`, or else behind `x-api-key: lg_…`.
pub(crate) fn caller(headers: &HeaderMap, keys: &KeySnapshot) -> Result<Arc<Key>, ErrorBody> {
    let text = text(headers).ok_or_else(ErrorBody::invalid_api_key)?;
    keys.check(text).map_err(error::key_refused)
}

/// As [`caller`], but only admins.
pub(crate) fn admin(headers: &HeaderMap, keys: &KeySnapshot) -> Result<Arc<Key>, ErrorBody> {
    let key = caller(headers, keys)?;
    match key.role {
        Role::Admin => Ok(key),
        Role::Member => Err(error::admins_only()),
    }
}

/// Whether what needs the store can be done at all: a store known to be down is said at once, without waiting for it.
pub(crate) fn needs_store(keys: &KeySnapshot) -> Result<(), ErrorBody> {
    if keys.is_fresh() {
        Ok(())
    } else {
        Err(error::key_refused(Refusal::StoreUnavailable))
    }
}

fn text(headers: &HeaderMap) -> Option<&str> {
    bearer(headers).or_else(|| {
        let text = headers.get(X_API_KEY)?.to_str().ok()?.trim();
        (!text.is_empty()).then_some(text)
    })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, text) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| text.trim())
        .filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn only_a_bearer_token_counts() {
        for (value, expected) in [
            ("Bearer lg_a_b", Some("lg_a_b")),
            ("bearer  lg_a_b ", Some("lg_a_b")),
            ("Basic bGc6", None),
            ("Bearer", None),
            ("Bearer  ", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
            assert_eq!(text(&headers), expected, "{value:?}");
        }
        assert_eq!(text(&HeaderMap::new()), None);
    }

    #[test]
    fn without_a_bearer_token_the_key_header_counts() {
        for (authorization, key, expected) in [
            (None, "lg_a_b", Some("lg_a_b")),
            (None, " lg_a_b ", Some("lg_a_b")),
            (None, " ", None),
            (Some("Basic bGc6"), "lg_a_b", Some("lg_a_b")),
            (Some("Bearer lg_c_d"), "lg_a_b", Some("lg_c_d")),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(X_API_KEY, HeaderValue::from_static(key));
            if let Some(value) = authorization {
                headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
            }
            assert_eq!(text(&headers), expected, "{authorization:?} {key:?}");
        }
    }
}
