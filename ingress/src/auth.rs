//! Who calls: the key in the request's headers.

use std::sync::Arc;

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use runtime::store::keys::{Key, KeySnapshot, Refusal, Role};
use schemas::event::ErrorBody;

use crate::error;

/// The key behind `Authorization: Bearer lg_…`.
pub(crate) fn caller(headers: &HeaderMap, keys: &KeySnapshot) -> Result<Arc<Key>, ErrorBody> {
    let text = bearer(headers).ok_or_else(ErrorBody::invalid_api_key)?;
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
            assert_eq!(bearer(&headers), expected, "{value:?}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
