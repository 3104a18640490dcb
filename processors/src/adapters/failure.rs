//! How calls fail, and what that means (failures, before and after the first token).

use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;
use schemas::event::ErrorBody;
use schemas::time::Timestamp;

use crate::router::Class;

/// Rest of a key whose provider says 429 and not for how long.
const REST: Duration = Duration::from_secs(5);
/// Longest rest that a provider's word is taken for.
const REST_MAX: Duration = Duration::from_secs(10 * 60);
/// Status that some providers use for "overloaded" or "rate limit".
const RATE_LIMITED: u16 = 429;
/// Status of an account without credit.
const NO_MONEY: u16 = 402;

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What it means for the next attempt.
    pub(crate) class: Class,
    /// What the client is told when no further attempt is made.
    pub(crate) error: ErrorBody,
}

/// A refusal of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyFault {
    /// It may be used again after this long.
    Rests(Duration),
    /// It is not accepted.
    LockedOut,
}

impl Failure {
    /// The call failed in a way that says nothing of the next one.
    pub(crate) fn passing(message: impl Into<String>) -> Self {
        Self {
            class: Class::Passing,
            error: ErrorBody::upstream_failed(message),
        }
    }

    /// Nothing came until a time-out.
    pub(crate) fn silent() -> Self {
        Self {
            class: Class::Silent,
            error: ErrorBody::upstream_timeout(),
        }
    }

    /// The stream ended in the middle.
    pub(crate) fn cut() -> Self {
        Self {
            class: Class::Cut,
            error: ErrorBody::upstream_cut(),
        }
    }

    /// The key is not there any more, so nothing was sent: as if the provider had refused it.
    pub(crate) fn keyless() -> Self {
        Self::status(401, ErrorBody::upstream_credentials())
    }

    /// The request cannot be said to this deployment; the call was not made.
    pub(crate) fn unfit(error: ErrorBody) -> Self {
        Self {
            class: Class::Unfit,
            error,
        }
    }

    /// A fault of the gateway: no attempt would do better.
    pub(crate) fn ours() -> Self {
        Self {
            class: Class::Refused,
            error: ErrorBody::internal(),
        }
    }

    /// The provider answered with `status`, which says `error`.
    pub(crate) fn status(status: u16, error: ErrorBody) -> Self {
        if (300..400).contains(&status) {
            return Self::passing(format!(
                "the provider redirects (status {status}), which is not followed: correct its base URL"
            ));
        }
        // A key that an account has no money for is as good as none; that is not the caller's account.
        let error = if status == NO_MONEY {
            ErrorBody::upstream_credentials()
        } else {
            error
        };
        let class = if is_credentials(&error) {
            Class::Key
        } else {
            class_of(status)
        };
        Self { class, error }
    }

    /// The provider reported `error` in place of an answer or within a stream.
    pub(crate) fn reported(error: ErrorBody) -> Self {
        let class = match u16::try_from(error.status) {
            Ok(_) if is_credentials(&error) => Class::Key,
            Ok(status) => class_of(status),
            Err(_) => Class::Passing,
        };
        Self { class, error }
    }

    /// The HTTP client gave up; nothing of its text, which may hold URLs, is told.
    pub(crate) fn transport(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            Self::silent()
        } else if error.is_connect() {
            Self::passing("the provider could not be reached")
        } else {
            Self::passing("the connection to the provider broke before its answer was whole")
        }
    }

    /// What it says of the key that was used, if anything.
    pub(crate) fn key_fault(&self, headers: Option<&HeaderMap>) -> Option<KeyFault> {
        if self.class != Class::Key {
            return None;
        }
        if self.error.status == i32::from(RATE_LIMITED) {
            let told = headers.and_then(retry_after).or(self.told_rest());
            Some(KeyFault::Rests(told.unwrap_or(REST).min(REST_MAX)))
        } else {
            Some(KeyFault::LockedOut)
        }
    }

    /// The rest that the body of the answer asks for.
    fn told_rest(&self) -> Option<Duration> {
        let millis = self.error.retry_after_millis?;
        Some(Duration::from_millis(u64::try_from(millis).ok()?))
    }
}

/// Whether the provider refused our key, with whatever status.
fn is_credentials(error: &ErrorBody) -> bool {
    error.code.as_deref() == Some("upstream_credentials")
}

fn class_of(status: u16) -> Class {
    match status {
        401 | NO_MONEY | 403 | RATE_LIMITED => Class::Key,
        408 => Class::Passing,
        400..500 => Class::Refused,
        _ => Class::Passing,
    }
}

/// `retry-after-ms`, else `retry-after` in seconds or as a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    if let Some(millis) = text("retry-after-ms").and_then(|text| text.parse::<f64>().ok()) {
        return Duration::try_from_secs_f64(millis / 1_000.0).ok();
    }
    let text = text(RETRY_AFTER.as_str())?;
    match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => http_date(text).map(|at| at.since(Timestamp::now())),
    }
}

/// An HTTP date in its one current form, `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 §5.6.7).
fn http_date(text: &str) -> Option<Timestamp> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (_, rest) = text.split_once(", ")?;
    let mut words = rest.split([' ', ':']);
    let mut number = || words.next()?.parse::<i64>().ok();
    let day = number()?;
    let month = words.next()?;
    let month = i64::try_from(MONTHS.iter().position(|name| *name == month)?).ok()? + 1;
    let mut number = || words.next()?.parse::<i64>().ok();
    let (year, hour, minute, second) = (number()?, number()?, number()?, number()?);
    if !(1970..=9999).contains(&year) || words.next() != Some("GMT") {
        return None;
    }
    // Days since the epoch, by Howard Hinnant's `days_from_civil`.
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted / 400;
    let year_of_era = shifted - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    Some(Timestamp(seconds.checked_mul(1_000_000)?))
}

#[cfg(test)]
mod tests {
    use schemas::dialect::openai;

    use super::*;

    fn status_of(status: u16, body: &str) -> Failure {
        Failure::status(status, openai::read_error(status, body.as_bytes()))
    }

    #[test]
    fn statuses_mean_what_the_table_of_failures_says() {
        let class = |status| status_of(status, "").class;
        for status in [500, 502, 503, 504, 529, 301, 302, 307, 408, 204, 100] {
            assert_eq!(class(status), Class::Passing, "{status}");
        }
        for status in [400, 404, 413, 422, 451] {
            assert_eq!(class(status), Class::Refused, "{status}");
        }
        for status in [401, 402, 403, 429] {
            assert_eq!(class(status), Class::Key, "{status}");
        }
    }

    #[test]
    fn a_refused_key_is_locked_out_and_never_shown_as_the_callers() {
        let failure = status_of(401, r#"{"error":{"message":"bad key sk-abcdefgh12345"}}"#);
        assert_eq!(failure.error.status, 502);
        assert_eq!(failure.error.code.as_deref(), Some("upstream_credentials"));
        assert_eq!(failure.key_fault(None), Some(KeyFault::LockedOut));
        assert!(!failure.error.message.contains("sk-"));
        assert_eq!(Failure::reported(failure.error.clone()).class, Class::Key);
    }

    #[test]
    fn an_account_without_credit_is_not_the_callers_fault() {
        let failure = status_of(402, r#"{"error":{"message":"Insufficient Balance"}}"#);
        assert_eq!(failure.error, ErrorBody::upstream_credentials());
        assert_eq!(failure.key_fault(None), Some(KeyFault::LockedOut));
    }

    #[test]
    fn a_refusal_of_the_key_by_another_status_is_one_too() {
        let failure = Failure::status(400, ErrorBody::upstream_credentials());
        assert_eq!(failure.class, Class::Key);
    }

    #[test]
    fn a_rest_that_only_the_body_tells_is_kept() {
        let mut failure = status_of(429, "");
        failure.error.retry_after_millis = Some(34_000);
        assert_eq!(
            failure.key_fault(Some(&HeaderMap::new())),
            Some(KeyFault::Rests(Duration::from_secs(34)))
        );
    }

    #[test]
    fn a_rate_limit_rests_as_long_as_the_provider_says() {
        let failure = status_of(429, "");
        let rest = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            failure.key_fault(Some(&headers))
        };
        let seconds = |seconds| Some(KeyFault::Rests(Duration::from_secs(seconds)));
        assert_eq!(rest("retry-after", "7"), seconds(7));
        assert_eq!(
            rest("retry-after-ms", "1500"),
            Some(KeyFault::Rests(Duration::from_millis(1500)))
        );
        assert_eq!(
            rest("retry-after", "86400"),
            Some(KeyFault::Rests(REST_MAX))
        );
        assert_eq!(rest("retry-after", "-1"), Some(KeyFault::Rests(REST)));
        assert_eq!(rest("retry-after", "soon"), Some(KeyFault::Rests(REST)));
        assert_eq!(failure.key_fault(None), Some(KeyFault::Rests(REST)));
        assert_eq!(
            rest("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"),
            seconds(0)
        );
    }

    #[test]
    fn dates_are_read() {
        let at = |text| http_date(text).map(Timestamp::seconds);
        assert_eq!(at("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(at("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(at("Thu, 29 Feb 2024 12:00:00 GMT"), Some(1_709_208_000));
        assert_eq!(at("Sunday, 06-Nov-94 08:49:37 GMT"), None);
    }
}
