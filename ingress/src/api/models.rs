//! `GET /v1/models` and `GET /v1/models/{id}`.

use std::collections::HashSet;
use std::sync::Arc;

use hyper::{HeaderMap, StatusCode};
use runtime::store::keys::KeySnapshot;
use schemas::event::ErrorBody;
use schemas::time::Timestamp;
use serde::Serialize;

use super::List;
use crate::auth;
use crate::reply::{self, Reply};

/// The models that clients may name.
#[derive(Debug)]
pub(crate) struct Models {
    keys: KeySnapshot,
    in_order: Vec<String>,
    names: Arc<HashSet<String>>,
    /// When this process read its configuration; models have no other date.
    since: Timestamp,
}

#[derive(Debug, Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    owned_by: &'static str,
}

impl Models {
    pub(crate) fn new(keys: KeySnapshot, in_order: Vec<String>) -> Self {
        Self {
            keys,
            names: Arc::new(in_order.iter().cloned().collect()),
            in_order,
            since: Timestamp::now(),
        }
    }

    /// The names alone.
    pub(crate) fn names(&self) -> Arc<HashSet<String>> {
        Arc::clone(&self.names)
    }

    pub(crate) fn list(&self, headers: &HeaderMap) -> Result<Reply, ErrorBody> {
        auth::caller(headers, &self.keys)?;
        let models = self.in_order.iter().map(|name| self.model(name)).collect();
        let list = List::new(models, false, |model| model.id.to_owned());
        reply::json(StatusCode::OK, &list)
    }

    pub(crate) fn get(&self, headers: &HeaderMap, name: &str) -> Result<Reply, ErrorBody> {
        auth::caller(headers, &self.keys)?;
        match self.names.get(name) {
            Some(name) => reply::json(StatusCode::OK, &self.model(name)),
            None => Err(ErrorBody::model_not_found(name)),
        }
    }

    fn model<'a>(&self, name: &'a str) -> Model<'a> {
        Model {
            id: name,
            object: "model",
            created: self.since.seconds(),
            owned_by: "lockgate",
        }
    }
}
