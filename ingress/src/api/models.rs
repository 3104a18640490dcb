//! `GET /v1/models` and `GET /v1/models/{id}`.

use hyper::{HeaderMap, StatusCode};
use runtime::store::keys::KeySnapshot;
use schemas::event::ErrorBody;
use schemas::time::Timestamp;
use serde::Serialize;

use super::List;
use crate::auth;
use crate::models::InForce;
use crate::reply::{self, Reply};

/// Shows the models by their names; aliases and patterns are none.
#[derive(Debug)]
pub(crate) struct ModelList {
    keys: KeySnapshot,
    models: InForce,
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

impl ModelList {
    pub(crate) fn new(keys: KeySnapshot, models: InForce) -> Self {
        Self {
            keys,
            models,
            since: Timestamp::now(),
        }
    }

    pub(crate) fn list(&self, headers: &HeaderMap) -> Result<Reply, ErrorBody> {
        auth::caller(headers, &self.keys)?;
        let in_force = self.models.load();
        let models = in_force
            .names()
            .iter()
            .map(|name| self.model(name))
            .collect();
        let list = List::new(models, false, |model| model.id.to_owned());
        reply::json(StatusCode::OK, &list)
    }

    pub(crate) fn get(&self, headers: &HeaderMap, name: &str) -> Result<Reply, ErrorBody> {
        auth::caller(headers, &self.keys)?;
        match self
            .models
            .load()
            .names()
            .iter()
            .find(|known| *known == name)
        {
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
