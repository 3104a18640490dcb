//! The trace context of a request, in and out of its spans (W3C, version 00).

use bytes::Bytes;
use http::HeaderValue;
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Makes `span` a child of the span that appended the record.
pub(crate) fn adopt(span: &Span, traceparent: Option<&Bytes>) {
    if span.is_disabled() {
        return;
    }
    if let Some(parent) = traceparent.and_then(|text| parse(text)) {
        let context = Context::new().with_remote_span_context(parent);
        // Refused when no tracer is installed; then there is no trace to be part of.
        if span.set_parent(context).is_err() {
            tracing::trace!("no tracer is installed");
        }
    }
}

/// The context to hand on from `span`; the one that came when no tracer is installed.
pub(crate) fn onward(span: &Span, came: Option<&Bytes>) -> Option<HeaderValue> {
    if !span.is_disabled() {
        let context = span.context();
        let context = context.span().span_context().clone();
        if context.is_valid() {
            let text = format!(
                "00-{}-{}-{:02x}",
                context.trace_id(),
                context.span_id(),
                context.trace_flags().to_u8()
            );
            return HeaderValue::try_from(text).ok();
        }
    }
    HeaderValue::from_maybe_shared(came?.clone()).ok()
}

fn parse(text: &[u8]) -> Option<SpanContext> {
    let text = std::str::from_utf8(text).ok()?;
    let mut parts = text.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if version.len() != 2 || version == "ff" || trace.len() != 32 || span.len() != 16 {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        TraceState::NONE,
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_context_is_read_and_nonsense_is_not() {
        let context = parse(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
        assert!(context.is_sampled());
        assert_eq!(
            context.trace_id().to_string(),
            "0af7651916cd43dd8448eb211c80319c"
        );
        for nonsense in [
            "",
            "00-0-0-0",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert!(parse(nonsense.as_bytes()).is_none(), "{nonsense}");
        }
    }

    #[test]
    fn without_a_tracer_the_context_is_handed_on_as_it_came() {
        let came = Bytes::from_static(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(onward(&Span::none(), Some(&came)).unwrap(), &came[..]);
        assert!(onward(&Span::none(), None).is_none());
    }
}
