//! The trace of a request: a span here, and the W3C context that travels in its record.

use bytes::Bytes;
use hyper::HeaderMap;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use schemas::header::TRACEPARENT;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The context that a client sent, if it is one.
pub(crate) fn incoming(headers: &HeaderMap) -> Option<SpanContext> {
    parse(headers.get(TRACEPARENT)?.to_str().ok()?)
}

/// Makes `span` a child of what the client sent.
pub(crate) fn adopt(span: &Span, parent: &SpanContext) {
    let context = opentelemetry::Context::new().with_remote_span_context(parent.clone());
    if span.set_parent(context).is_err() {
        // Without an exporter there is no trace to be part of; the context is still forwarded.
        tracing::trace!("no trace is kept here");
    }
}

/// The context for the record: of `span` when traces are kept here, else what the client sent.
pub(crate) fn outgoing(span: &Span, parent: Option<&SpanContext>) -> Option<Bytes> {
    let context = span.context();
    let own = context.span().span_context().clone();
    if own.is_valid() {
        return Some(format(&own));
    }
    parent.map(format)
}

/// <https://www.w3.org/TR/trace-context/#traceparent-header>; a later version is read as far as
/// version 00 goes.
fn parse(text: &str) -> Option<SpanContext> {
    let mut fields = text.trim().split('-');
    let (version, trace, span, flags) = (
        fields.next()?,
        fields.next()?,
        fields.next()?,
        fields.next()?,
    );
    let lower_hex = |field: &str, length: usize| {
        field.len() == length
            && field
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let well_formed = lower_hex(version, 2)
        && version != "ff"
        && (version != "00" || fields.next().is_none())
        && lower_hex(trace, 32)
        && lower_hex(span, 16)
        && lower_hex(flags, 2);
    if !well_formed {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    );
    context.is_valid().then_some(context)
}

fn format(context: &SpanContext) -> Bytes {
    format!(
        "00-{}-{}-{:02x}",
        context.trace_id(),
        context.span_id(),
        context.trace_flags().to_u8()
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_context_survives_the_way_in_and_out() {
        let context = parse(GOOD).unwrap();
        assert_eq!(format(&context), GOOD);
        assert_eq!(outgoing(&Span::none(), Some(&context)).unwrap(), GOOD);
    }

    #[test]
    fn what_is_no_context_is_ignored() {
        for text in [
            "",
            "00",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ü0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
        let later = "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more";
        assert!(parse(later).is_some());
    }
}
