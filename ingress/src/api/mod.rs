//! The operations behind the routes.

pub(crate) mod health;
pub(crate) mod inference;
pub(crate) mod keys;
pub(crate) mod models;
pub(crate) mod requests;

use schemas::time::Timestamp;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A page of a list in OpenAI's shape.
#[derive(Debug, Serialize)]
pub(crate) struct List<T> {
    object: &'static str,
    data: Vec<T>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

impl<T> List<T> {
    /// A page; `id` names an item, for the next page's `after`.
    pub(crate) fn new(data: Vec<T>, has_more: bool, id: impl Fn(&T) -> String) -> Self {
        Self {
            object: "list",
            first_id: data.first().map(&id),
            last_id: data.last().map(&id),
            has_more,
            data,
        }
    }
}

/// An instant as RFC 3339 text, UTC; none when it is out of range.
pub(crate) fn rfc3339(at: Timestamp) -> Option<String> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000)
        .ok()?
        .format(&Rfc3339)
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_reads_as_utc_and_an_impossible_one_as_nothing() {
        let text = rfc3339(Timestamp(1_700_000_000_123_456));
        assert_eq!(text.as_deref(), Some("2023-11-14T22:13:20.123456Z"));
        assert_eq!(rfc3339(Timestamp(i64::MAX)), None);
    }
}
