//! The trace context of a request, in and out of its spans.

use bytes::Bytes;
use http::HeaderValue;
use runtime::telemetry;
use tracing::Span;

/// Makes `span` a child of the span that appended the record.
pub(crate) fn adopt(span: &Span, traceparent: Option<&Bytes>) {
    if let Some(traceparent) = traceparent.and_then(|text| std::str::from_utf8(text).ok()) {
        telemetry::set_parent(span, traceparent);
    }
}

/// The context to hand on from `span`; the one that came when spans are not exported.
pub(crate) fn onward(span: &Span, came: Option<&Bytes>) -> Option<HeaderValue> {
    match telemetry::traceparent_of(span) {
        Some(traceparent) => HeaderValue::try_from(traceparent).ok(),
        None => HeaderValue::from_maybe_shared(came?.clone()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_tracer_the_context_is_handed_on_as_it_came() {
        let came = Bytes::from_static(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(onward(&Span::none(), Some(&came)).unwrap(), &came[..]);
        assert!(onward(&Span::none(), None).is_none());
    }
}
