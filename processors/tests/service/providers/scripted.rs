//! The scripted provider serves every operation.

use runtime::config::{ProviderKind, ScriptLine};
use schemas::fold::End;
use schemas::request::{Endpoint, Request};
use serde_json::{Value, json};

use super::{chat, finish_reason, frames, kinds, messages, said};
use crate::rig::{Answer, Rig, asks, settings};

async fn script(request: &Request, change: impl Fn(&mut ScriptLine)) -> Answer {
    let rig = Rig::new().await;
    let mut settings = settings(&["http://nowhere"]);
    let mut line = ScriptLine {
        model: "m0".into(),
        reply: "You said: {prompt}".into(),
        delay: Default::default(),
        status: None,
        cut_after: None,
    };
    change(&mut line);
    settings.routing.providers[0].kind = ProviderKind::Scripted { script: vec![line] };
    let _processors = rig.start(settings);
    rig.answer(rig.submit(request).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_speaks_word_by_word_in_every_choice() {
    let request = chat(json!({"stream": true, "n": 2}));
    let answer = script(&request, |_| ()).await;
    let frames = frames(&answer);
    assert_eq!(frames[0]["choices"][0]["delta"]["role"], "assistant");
    let choice = |index: i32| -> Vec<Value> {
        let frames = frames.iter();
        let frames = frames.filter(|frame| frame["choices"][0]["index"] == index);
        frames.cloned().collect()
    };
    for index in 0..2 {
        let frames = choice(index);
        assert_eq!(said(&frames, "content"), "You said: What is the weather?");
        assert_eq!(finish_reason(&frames), "stop");
        assert!(frames.len() > 6, "a frame for each word");
    }
    let usage = answer.terminal().usage.unwrap();
    assert_eq!((usage.completion_tokens, usage.estimated), (12, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_answers_whole_and_streamed_in_anthropics_dialect() {
    let answer = script(&messages(json!({})), |_| ()).await;
    let body = answer.body();
    assert_eq!(body["content"][0]["text"], "You said: What is the weather?");
    assert_eq!(body["model"], "m0");
    let answer = script(&messages(json!({"stream": true})), |_| ()).await;
    let frames = frames(&answer);
    assert_eq!(kinds(&frames).first(), Some(&"message_start"));
    assert_eq!(kinds(&frames).last(), Some(&"message_stop"));
    let deltas = frames
        .iter()
        .filter_map(|frame| frame["delta"]["text"].as_str());
    assert_eq!(deltas.collect::<String>(), "You said: What is the weather?");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_continues_texts_and_makes_vectors_that_stay_the_same() {
    let request = asks(Endpoint::Completions, json!({"prompt": "once"}));
    let answer = script(&request, |_| ()).await;
    assert_eq!(answer.body()["choices"][0]["text"], "You said: once");
    let embed = || {
        asks(
            Endpoint::Embeddings,
            json!({"input": ["a", "b"], "dimensions": 4}),
        )
    };
    let (one, two) = (
        script(&embed(), |_| ()).await,
        script(&embed(), |_| ()).await,
    );
    assert_eq!(one.body()["data"], two.body()["data"]);
    assert_ne!(
        one.body()["data"][0]["embedding"],
        one.body()["data"][1]["embedding"]
    );
    assert_eq!(
        one.body()["data"][0]["embedding"].as_array().unwrap().len(),
        4
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_fails_and_cuts_as_the_script_says() {
    let answer = script(&messages(json!({})), |line| line.status = Some(400)).await;
    assert_eq!(answer.terminal().status, 400);
    assert_eq!(answer.terminal().attempts[0].status, Some(400));
    let request = messages(json!({"stream": true}));
    let answer = script(&request, |line| line.cut_after = Some(2)).await;
    assert_eq!(answer.fold.end, Some(End::Failed));
    assert_eq!(answer.code(), "upstream_cut");
    assert_eq!(answer.body()["content"][0]["text"], "You said:");
}
