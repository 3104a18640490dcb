//! Embeddings: validated, passed on, and shown in the form that the client asked for.

use bytes::Bytes;
use proptest::prelude::*;
use schemas::dialect::openai::{
    EmbeddingsRequest, estimate_usage, is_malformed, read_embeddings, read_embeddings_request,
    render_embeddings, upstream_embeddings, write_embeddings,
};
use schemas::model::{EmbedInput, Embeddings};
use serde_json::{Value, json};

use crate::recorded::fixture;

fn body(fields: Value) -> Vec<u8> {
    let mut request = json!({"model": "m", "input": "text"});
    let Value::Object(fields) = fields else {
        panic!("no fields")
    };
    request.as_object_mut().unwrap().extend(fields);
    request.to_string().into_bytes()
}

fn recorded(name: &str) -> Bytes {
    Bytes::copy_from_slice(fixture(name).trim_ascii())
}

fn embeddings(vectors: &[&[f32]]) -> Embeddings {
    Embeddings {
        vectors: vectors.iter().map(|vector| vector.to_vec()).collect(),
        ..Embeddings::default()
    }
}

/// The vectors that both recorded answers hold.
const VECTORS: [&[f32]; 2] = [&[0.002_306_425_5, -0.009_327_292], &[0.5, -0.25]];

#[test]
fn a_request_tells_what_the_pipeline_needs() {
    let request = body(json!({
        "input": ["a", "b"], "encoding_format": "base64", "dimensions": 256, "user": "u",
    }));
    let request = EmbeddingsRequest::parse(&request).unwrap();
    assert_eq!(
        (request.model.as_ref(), request.base64, request.count),
        ("m", true, 2)
    );
    assert_eq!(
        (request.prompt_bytes, request.user.as_deref()),
        (9, Some("u"))
    );
    let plain = body(json!({"encoding_format": "float"}));
    let plain = EmbeddingsRequest::parse(&plain).unwrap();
    assert_eq!((plain.base64, plain.count), (false, 1));
    let most = body(json!({"input": vec!["a"; 2_048]}));
    assert_eq!(EmbeddingsRequest::parse(&most).unwrap().count, 2_048);
    for (input, count) in [(json!([1, 2, 3]), 1), (json!([[1], [2, 3]]), 2)] {
        let body = body(json!({"input": input}));
        assert_eq!(
            EmbeddingsRequest::parse(&body).unwrap().count,
            count,
            "{input}"
        );
    }
}

#[test]
fn the_field_at_fault_is_named() {
    for (fields, param) in [
        (json!({"model": null}), "model"),
        (json!({"input": null}), "input"),
        (json!({"input": ""}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": ["a", ""]}), "input"),
        (json!({"input": [[]]}), "input"),
        (json!({"input": ["a", 1]}), "input"),
        (json!({"input": {}}), "input"),
        (json!({"input": vec!["a"; 2_049]}), "input"),
        (json!({"encoding_format": "int8"}), "encoding_format"),
        (json!({"encoding_format": 7}), "encoding_format"),
        (json!({"dimensions": 0}), "dimensions"),
        (json!({"dimensions": "256"}), "dimensions"),
        (json!({"user": 1}), "user"),
    ] {
        let body = body(fields.clone());
        for error in [
            EmbeddingsRequest::parse(&body).unwrap_err(),
            read_embeddings_request(&body).unwrap_err(),
        ] {
            assert_eq!(
                (error.status, error.param.as_deref()),
                (400, Some(param)),
                "{fields}"
            );
        }
    }
}

#[test]
fn a_request_is_read_for_other_providers_and_passed_on_to_its_own() {
    let request = body(json!({"input": ["a", "ü"], "dimensions": 8, "encoding_format": "base64"}));
    let embed = read_embeddings_request(&request).unwrap();
    let text = |text: &str| EmbedInput::Text(text.to_owned());
    assert_eq!(embed.inputs, [text("a"), text("ü")]);
    assert_eq!(
        (embed.dimensions, embed.base64, embed.user),
        (Some(8), true, None)
    );
    let tokens = read_embeddings_request(&body(json!({"input": [[1], [2, 3]]}))).unwrap();
    assert_eq!(
        tokens.inputs,
        [EmbedInput::Tokens(vec![1]), EmbedInput::Tokens(vec![2, 3])]
    );

    let request = Bytes::from_static(br#"{"input" :"a", "model":"m","x":1.0}"#);
    assert_eq!(
        upstream_embeddings(&request, "m").as_ptr(),
        request.as_ptr()
    );
    assert_eq!(
        upstream_embeddings(&request, "n"),
        r#"{"input" :"a", "model":"n","x":1.0}"#
    );
}

#[test]
fn a_recorded_answer_has_the_form_that_was_asked_for() {
    let (float, base64) = (
        recorded("embeddings.float.json"),
        recorded("embeddings.base64.json"),
    );
    let model = "text-embedding-3-small";
    let sorted = r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.0023064255,-0.009327292]},{"object":"embedding","index":1,"embedding":[0.5,-0.25]}],"model":"text-embedding-3-small","usage":{"prompt_tokens":8,"total_tokens":8}}"#;
    for provided in [&float, &base64] {
        let (shown, usage) = render_embeddings(provided, model, false, 2).unwrap();
        assert_eq!(shown, sorted);
        assert_eq!(usage.unwrap().prompt_tokens, 8);
        let (shown, _) = render_embeddings(provided, model, true, 2).unwrap();
        assert_eq!(shown, base64);
        let read = read_embeddings(provided, 2).unwrap();
        assert_eq!(read.vectors, VECTORS);
        assert_eq!(read.model.as_deref(), Some(model));
        let written = write_embeddings(&read, model, true);
        assert_eq!(written, base64);
    }
    // What fits is the provider's own bytes.
    let (shown, _) = render_embeddings(&base64, model, true, 2).unwrap();
    assert_eq!(shown.as_ptr(), base64.as_ptr());
    let (shown, _) = render_embeddings(&base64, "mine", true, 2).unwrap();
    assert_eq!(
        shown,
        std::str::from_utf8(&base64).unwrap().replace(model, "mine")
    );
}

#[test]
fn what_is_no_answer_to_the_inputs_is_malformed() {
    let data = |data: Value| json!({"object": "list", "model": "m", "data": data});
    let item = |index: Value, embedding: Value| json!({"index": index, "embedding": embedding});
    let good = || item(json!(0), json!([1.0]));
    for answer in [
        json!({}),
        json!({"data": 7}),
        data(json!([])),
        data(json!([good()])),
        data(json!([good(), good()])),
        data(json!([good(), item(json!(2), json!([1.0]))])),
        data(json!([good(), item(json!(-1), json!([1.0]))])),
        data(json!([good(), {"index": 1}])),
        data(json!([good(), item(json!(1), json!([]))])),
        data(json!([good(), item(json!(1), json!([null]))])),
        data(json!([good(), item(json!(1), json!(["1"]))])),
        data(json!([good(), item(json!(1), json!([1e40]))])),
        data(json!([good(), item(json!(1), json!("AAAA"))])),
        data(json!([good(), item(json!(1), json!("AADAfw=="))])),
        data(json!([good(), item(json!(1), json!("?"))])),
    ] {
        let body = Bytes::from(answer.to_string());
        assert!(
            is_malformed(&read_embeddings(&body, 2).unwrap_err()),
            "{answer}"
        );
        // The first is an array, so that the second is read for one of the two forms.
        let outcomes = [false, true].map(|base64| render_embeddings(&body, "m", base64, 2));
        let errors: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
        assert!(
            !errors.is_empty() && errors.iter().all(is_malformed),
            "{answer}"
        );
    }
    let error = Bytes::from_static(br#"{"error":{"message":"boom"}}"#);
    let error = render_embeddings(&error, "m", true, 1).unwrap_err();
    assert_eq!((error.status, is_malformed(&error)), (502, false));
    let unnumbered = Bytes::from_static(br#"{"data":[{"embedding":[1]},{"embedding":[2]}]}"#);
    assert_eq!(
        read_embeddings(&unnumbered, 2).unwrap().vectors,
        [[1.0], [2.0]]
    );
}

#[test]
fn usage_is_shown_where_there_is_any() {
    let mut answer = embeddings(&[&[1.0]]);
    let bare = write_embeddings(&answer, "m", false);
    assert_eq!(
        bare,
        r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1.0]}],"model":"m"}"#
    );
    answer.usage = Some(estimate_usage(8, 0));
    let counted = write_embeddings(&answer, "m", false);
    assert!(counted.ends_with(br#""usage":{"prompt_tokens":2,"total_tokens":2}}"#));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn vectors_survive_both_forms_to_the_bit(
        vectors in proptest::collection::vec(
            proptest::collection::vec(proptest::num::f32::NORMAL | proptest::num::f32::SUBNORMAL | proptest::num::f32::ZERO, 1..6),
            1..4,
        ),
    ) {
        let bits = |embeddings: &Embeddings| -> Vec<Vec<u32>> {
            let vectors = embeddings.vectors.iter();
            vectors.map(|vector| vector.iter().map(|float| float.to_bits()).collect()).collect()
        };
        let count = vectors.len();
        let embeddings = Embeddings { vectors, ..Embeddings::default() };
        let [array, base64] = [false, true].map(|base64| write_embeddings(&embeddings, "m", base64));
        prop_assert!(serde_json::from_slice::<Value>(&array).is_ok());
        for written in [&array, &base64] {
            prop_assert_eq!(bits(&read_embeddings(written, count).unwrap()), bits(&embeddings));
            let (to_base64, _) = render_embeddings(written, "m", true, count).unwrap();
            prop_assert_eq!(&to_base64, &base64);
            let (to_array, _) = render_embeddings(written, "m", false, count).unwrap();
            prop_assert_eq!(&to_array, &array);
        }
    }

    #[test]
    fn damaged_answers_never_panic(place in 0..400_usize, byte: u8, base64: bool) {
        let mut body = recorded("embeddings.float.json").to_vec();
        let length = body.len();
        body[place % length] = byte;
        match render_embeddings(&Bytes::from(body), "m", base64, 2) {
            Ok((shown, _)) => prop_assert!(serde_json::from_slice::<Value>(&shown).is_ok()),
            Err(error) => prop_assert!(error.status >= 400),
        }
    }

    #[test]
    fn damaged_requests_never_panic(place in 0..200_usize, byte: u8) {
        let mut body = body(json!({"input": [[1, 2], [3]], "dimensions": 8}));
        let length = body.len();
        body[place % length] = byte;
        if let Ok(request) = EmbeddingsRequest::parse(&body) {
            prop_assert_eq!(read_embeddings_request(&body).unwrap().inputs.len(), request.count);
        }
    }
}
