//! What a chunk of a stream costs between a provider and its client: at most 3 µs.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use schemas::dialect::{Identity, anthropic, gemini, openai};

const OPENAI: &[u8] = br#"{"id":"chatcmpl-CM9x","object":"chat.completion.chunk","created":1759425033,"model":"gpt-4o-2024-08-06","service_tier":"default","system_fingerprint":"fp_cbf1785567","choices":[{"index":0,"delta":{"content":" harbour"},"logprobs":null,"finish_reason":null}],"usage":null}"#;
const ANTHROPIC: &[u8] =
    br#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" harbour"}}"#;
const GEMINI: &[u8] = br#"{"candidates":[{"content":{"parts":[{"text":" harbour"}],"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":4,"totalTokenCount":4},"modelVersion":"gemini-2.5-flash","responseId":"x"}"#;
const MODEL: &str = "gpt-4o-2024-08-06";

fn identity() -> Identity {
    Identity {
        id: "chatcmpl-0199a2b3c4d5e6f7a8b9c0d1e2f3a4b5".to_owned(),
        created: 1_759_425_033,
    }
}

fn chunks(criterion: &mut Criterion) {
    let identity = identity();
    criterion.bench_function("openai to openai", |bencher| {
        bencher.iter(|| {
            let chunk = openai::read_chunk(black_box(OPENAI)).ok();
            chunk.and_then(|chunk| openai::render_chunk(&chunk, &identity, MODEL, true))
        });
    });
    criterion.bench_function("anthropic to anthropic", |bencher| {
        bencher.iter(|| anthropic::render_event(black_box(ANTHROPIC), &identity, MODEL));
    });
    criterion.bench_function("anthropic to openai", |bencher| {
        let mut reader = anthropic::StreamReader::default();
        let mut writer = openai::StreamWriter::new(&identity, MODEL, true);
        let mut step = || -> Option<Vec<Bytes>> {
            let said = reader.read(black_box(ANTHROPIC)).ok()?;
            Some(
                writer
                    .write(&said)
                    .into_iter()
                    .map(|chunk| chunk.raw)
                    .collect(),
            )
        };
        bencher.iter(&mut step);
    });
    criterion.bench_function("openai to anthropic", |bencher| {
        let mut writer = anthropic::StreamWriter::new(&identity, MODEL, 10);
        let mut step = || -> Option<Vec<Bytes>> {
            let said = openai::read_event(black_box(OPENAI)).ok()?;
            Some(writer.write(&said))
        };
        bencher.iter(&mut step);
    });
    criterion.bench_function("gemini to openai", |bencher| {
        let mut reader = gemini::StreamReader::default();
        let mut writer = openai::StreamWriter::new(&identity, MODEL, true);
        let mut step = || -> Option<Vec<Bytes>> {
            let said = reader.read(black_box(GEMINI)).ok()?;
            Some(
                writer
                    .write(&said)
                    .into_iter()
                    .map(|chunk| chunk.raw)
                    .collect(),
            )
        };
        bencher.iter(&mut step);
    });
}

criterion_group!(benches, chunks);
criterion_main!(benches);
