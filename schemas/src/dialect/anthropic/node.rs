//! Objects within a request, which know where they are.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::dialect::check::{self, Kind, missing, refuse};
use crate::dialect::json::{self, Object};
use crate::event::ErrorBody;

/// An object of the request and the path that leads to it. What it reads is checked; every error is a 400 whose
/// `param` names the field.
pub(super) struct Node<'a> {
    /// `messages.[0]`; empty for the body.
    path: String,
    object: Object<'a>,
}

impl<'a> Node<'a> {
    /// The body.
    pub(super) fn root(body: &'a [u8]) -> Result<Self, ErrorBody> {
        Ok(Self {
            path: String::new(),
            object: check::object(body)?,
        })
    }

    /// The object that `raw` is, at `path`.
    pub(super) fn new(path: String, raw: &'a RawValue) -> Result<Self, ErrorBody> {
        match Object::parse(raw.get()) {
            Ok(object) => Ok(Self { path, object }),
            Err(_) => Err(refuse(Some(&path), format!("`{path}` must be an object"))),
        }
    }

    pub(super) fn object(&self) -> &Object<'a> {
        &self.object
    }

    /// The path of the member `key`.
    pub(super) fn at(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// 400: this object cannot be served; `message` says why.
    pub(super) fn refuse(&self, message: impl Into<String>) -> ErrorBody {
        refuse(Some(&self.path), message)
    }

    /// Checks the members that `known` names.
    pub(super) fn check(&self, known: &[(&str, Kind)]) -> Result<(), ErrorBody> {
        let prefix = self.at("");
        check::fields_at(&prefix, &self.object, known)
    }

    /// The member `key`; none for `null`.
    pub(super) fn some(&self, key: &str) -> Option<&'a RawValue> {
        self.object.some(key)
    }

    /// The member `key`, which has to be there.
    pub(super) fn needed(&self, key: &str) -> Result<&'a RawValue, ErrorBody> {
        self.some(key).ok_or_else(|| missing(&self.at(key)))
    }

    /// The string `key`.
    pub(super) fn text(&self, key: &str) -> Result<Option<Cow<'a, str>>, ErrorBody> {
        let Some(raw) = self.some(key) else {
            return Ok(None);
        };
        check::value(&self.at(key), raw, Kind::Text)?;
        Ok(json::string(raw))
    }

    /// The string `key`, which has to be there; may be empty.
    pub(super) fn needed_text(&self, key: &str) -> Result<Cow<'a, str>, ErrorBody> {
        self.text(key)?.ok_or_else(|| missing(&self.at(key)))
    }

    /// The `type` of the object; empty when it has none.
    pub(super) fn kind(&self) -> Result<Cow<'a, str>, ErrorBody> {
        Ok(self.text("type")?.unwrap_or_default())
    }

    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>, ErrorBody> {
        let Some(raw) = self.some(key) else {
            return Ok(None);
        };
        check::value(&self.at(key), raw, Kind::Boolean)?;
        Ok(Some(check::is_true(raw)))
    }

    /// The number `key`, within the bounds that `kind` sets.
    pub(super) fn number<T>(&self, key: &str, kind: Kind) -> Result<Option<T>, ErrorBody>
    where
        T: serde::de::DeserializeOwned,
    {
        let Some(raw) = self.some(key) else {
            return Ok(None);
        };
        check::value(&self.at(key), raw, kind)?;
        Ok(serde_json::from_str(raw.get()).ok())
    }

    /// The object `key`.
    pub(super) fn node(&self, key: &str) -> Result<Option<Node<'a>>, ErrorBody> {
        self.some(key)
            .map(|raw| Node::new(self.at(key), raw))
            .transpose()
    }

    /// The elements of the array `key`, none when it is not there.
    pub(super) fn list(&self, key: &str) -> Result<Vec<&'a RawValue>, ErrorBody> {
        let Some(raw) = self.some(key) else {
            return Ok(Vec::new());
        };
        let field = self.at(key);
        serde_json::from_str(raw.get())
            .map_err(|_| refuse(Some(&field), format!("`{field}` must be an array")))
    }

    /// The objects of the array `key`, none when it is not there.
    pub(super) fn nodes(&self, key: &str) -> Result<Vec<Node<'a>>, ErrorBody> {
        let field = self.at(key);
        let elements = self.list(key)?.into_iter().enumerate();
        elements
            .map(|(index, raw)| Node::new(format!("{field}.[{index}]"), raw))
            .collect()
    }
}
