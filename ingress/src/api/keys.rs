//! `/admin/v1/keys`: keys of all tenants, for admins.

use std::time::Duration;

use bytes::Bytes;
use hyper::{HeaderMap, StatusCode};
use runtime::store::keys::{Key, KeySnapshot, NewKey, Role};
use runtime::store::{Store, StoreError};
use schemas::event::ErrorBody;
use schemas::request::{OnDisconnect, OnTakeover};
use schemas::time::Timestamp;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{List, rfc3339};
use crate::reply::{self, Reply};
use crate::{auth, error};

const NAME_CHARACTERS_MAX: usize = 64;

/// Administers keys.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) keys: KeySnapshot,
    pub(crate) store: Store,
}

/// Body of `POST /admin/v1/keys`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: String,
    tenant: String,
    #[serde(default)]
    role: RoleName,
    /// A duration from now (`30d`) or an instant (RFC 3339); none: the key does not expire.
    #[serde(default)]
    expires: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RoleName {
    #[default]
    Member,
    Admin,
}

/// A key as admins see it; its secret is in the answer to its creation only.
#[derive(Debug, Serialize)]
struct View {
    id: String,
    object: &'static str,
    name: String,
    tenant: String,
    role: RoleName,
    created_at: i64,
    expires_at: Option<String>,
    disabled_at: Option<String>,
    on_disconnect: &'static str,
    on_takeover: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

impl Keys {
    pub(crate) async fn list(&self, headers: &HeaderMap) -> Result<Reply, ErrorBody> {
        self.authorize(headers)?;
        let keys = self.store.list_keys().await.map_err(failed)?;
        let views = keys.into_iter().map(|key| view(key, None)).collect();
        let list = List::new(views, false, |view: &View| view.id.clone());
        reply::json(StatusCode::OK, &list)
    }

    /// Whether the caller may and the store can; asked before the body of [`Keys::create`] is read.
    pub(crate) fn authorize(&self, headers: &HeaderMap) -> Result<(), ErrorBody> {
        auth::admin(headers, &self.keys)?;
        auth::needs_store(&self.keys)
    }

    pub(crate) async fn create(&self, body: &Bytes) -> Result<Reply, ErrorBody> {
        let new = parse(body)?;
        let (key, secret) = self.store.create_key(&new).await.map_err(failed)?;
        info!(key.id = %key.id, tenant = %key.tenant, "key created");
        let mut reply = reply::json(
            StatusCode::CREATED,
            &view(key, Some(secret.expose_secret().to_owned())),
        )?;
        reply::forbid_caching(&mut reply);
        Ok(reply)
    }

    pub(crate) async fn disable(&self, headers: &HeaderMap, id: &str) -> Result<Reply, ErrorBody> {
        self.authorize(headers)?;
        let disabled = self.store.disable_key(id).await.map_err(failed)?;
        let key = disabled.ok_or_else(|| error::unknown_key(id))?;
        info!(key.id = %key.id, tenant = %key.tenant, "key disabled");
        reply::json(StatusCode::OK, &view(key, None))
    }
}

fn failed(cause: StoreError) -> ErrorBody {
    warn!(error = %cause, "keys could not be read or written");
    error::store(&cause)
}

fn parse(body: &[u8]) -> Result<NewKey, ErrorBody> {
    let create: Create = serde_json::from_slice(body).map_err(|fault| {
        ErrorBody::invalid_request(None, format!("The body is not as expected: {fault}."))
    })?;
    let name = create.name.trim();
    if name.is_empty() || name.chars().count() > NAME_CHARACTERS_MAX {
        return Err(ErrorBody::invalid_request(
            Some("name"),
            format!("`name` must have 1 to {NAME_CHARACTERS_MAX} characters."),
        ));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let tenant = &create.tenant;
    if tenant.is_empty() || tenant.len() > NAME_CHARACTERS_MAX || !tenant.bytes().all(allowed) {
        return Err(ErrorBody::invalid_request(
            Some("tenant"),
            format!(
                "`tenant` must have 1 to {NAME_CHARACTERS_MAX} of the characters a-z A-Z 0-9 _ . -"
            ),
        ));
    }
    Ok(NewKey {
        name: name.to_owned(),
        tenant: create.tenant.clone(),
        role: match create.role {
            RoleName::Member => Role::Member,
            RoleName::Admin => Role::Admin,
        },
        expires_at: create.expires.as_deref().map(expires_at).transpose()?,
    })
}

fn expires_at(text: &str) -> Result<Timestamp, ErrorBody> {
    let now = Timestamp::now();
    let at = match humantime::parse_duration(text) {
        Ok(duration) => Some(now.plus(duration)),
        Err(_) => humantime::parse_rfc3339(text)
            .ok()
            .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok())
            .map(|since: Duration| Timestamp(0).plus(since)),
    };
    at.filter(|at| *at > now).ok_or_else(|| {
        ErrorBody::invalid_request(
            Some("expires"),
            "`expires` must be a duration such as `30d`, or an instant in the future such as `2030-01-01T00:00:00Z`.",
        )
    })
}

fn view(key: Key, secret: Option<String>) -> View {
    View {
        id: key.id,
        object: "key",
        name: key.name,
        tenant: key.tenant,
        role: match key.role {
            Role::Member => RoleName::Member,
            Role::Admin => RoleName::Admin,
        },
        created_at: key.created_at.seconds(),
        expires_at: key.expires_at.and_then(rfc3339),
        disabled_at: key.disabled_at.and_then(rfc3339),
        on_disconnect: match key.on_disconnect {
            OnDisconnect::Cancel => "cancel",
            OnDisconnect::Drain => "drain",
            OnDisconnect::Detach => "detach",
        },
        on_takeover: key.on_takeover.map(|policy| match policy {
            OnTakeover::Retry => "retry",
            OnTakeover::Fail => "fail",
        }),
        key: secret,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_is_read_and_a_member_unless_it_says_otherwise() {
        let new = parse(br#"{"name":" app ","tenant":"acme"}"#).unwrap();
        assert_eq!((new.name.as_str(), new.role), ("app", Role::Member));
        assert_eq!(new.expires_at, None);
        let new = parse(br#"{"name":"a","tenant":"b","role":"admin","expires":"30d"}"#).unwrap();
        assert_eq!(new.role, Role::Admin);
        assert!(new.expires_at.unwrap() > Timestamp::now());
    }

    #[test]
    fn a_bad_key_names_the_field_at_fault() {
        for (body, param) in [
            (r#"{"name":"","tenant":"b"}"#, Some("name")),
            (r#"{"name":"a","tenant":"a b"}"#, Some("tenant")),
            (
                r#"{"name":"a","tenant":"b","expires":"soon"}"#,
                Some("expires"),
            ),
            (
                r#"{"name":"a","tenant":"b","expires":"2001-01-01T00:00:00Z"}"#,
                Some("expires"),
            ),
            (r#"{"name":"a","tenant":"b","role":"king"}"#, None),
            (r#"{"name":"a","tenant":"b","extra":1}"#, None),
            ("[]", None),
            ("{", None),
        ] {
            let error = parse(body.as_bytes()).unwrap_err();
            assert_eq!(
                (error.status, error.param.as_deref()),
                (400, param),
                "{body}"
            );
        }
    }
}
