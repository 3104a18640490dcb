use super::*;
use crate::model::{Sampling, Tool};

const OLD: &str = "claude-sonnet-4-5-20250929";
const NEW: &str = "claude-opus-5";

fn says(role: Role, parts: Vec<Part>) -> Message {
    Message {
        role,
        name: None,
        parts,
        is_prefix: false,
    }
}

fn thinks(reasoning: Reasoning, tokens_max: Option<i64>) -> Chat {
    Chat {
        messages: vec![says(Role::User, vec![Part::Text("hi".to_owned())])],
        reasoning: Some(reasoning),
        tokens_max,
        n: 1,
        ..Chat::default()
    }
}

fn budget(chat: &Chat) -> (i64, Option<Thinking>) {
    let generation = Generation::of(chat, OLD);
    (generation.max_tokens, generation.thinking)
}

#[test]
fn the_version_is_found_in_every_form_of_a_name() {
    for (model, expected) in [
        ("claude-3-5-haiku-20241022", Some((3, 5))),
        ("claude-3-haiku-20240307", Some((3, 0))),
        ("claude-opus-4-20250514", Some((4, 0))),
        ("claude-opus-4-1@20250805", Some((4, 1))),
        ("us.anthropic.claude-opus-4-6-v1:0", Some((4, 6))),
        ("anthropic/claude-4.7-opus", Some((4, 7))),
        ("claude-sonnet-5", Some((5, 0))),
        ("Claude-Instant-1.2", Some((1, 2))),
        ("claude-mythos-preview", Some((4, 7))),
        ("claude-latest", None),
        ("gpt-4", None),
    ] {
        assert_eq!(version(model), expected, "{model}");
    }
}

#[test]
fn a_budget_is_less_than_the_most_tokens_and_at_least_anthropics_least() {
    use Reasoning::{Effort as E, Off, Tokens};
    use Thinking::Budget;
    for (reasoning, tokens_max, expected) in [
        (E(Effort::High), None, (28_672, Some(Budget(24_576)))),
        (E(Effort::Medium), None, (12_288, Some(Budget(8192)))),
        (E(Effort::Minimal), None, (5120, Some(Budget(1024)))),
        (E(Effort::High), Some(8000), (8000, Some(Budget(4000)))),
        (E(Effort::High), Some(1025), (1025, Some(Budget(1024)))),
        (E(Effort::High), Some(1024), (1024, None)),
        (Tokens(2000), None, (6096, Some(Budget(2000)))),
        (Tokens(10), None, (5120, Some(Budget(1024)))),
        (Tokens(5000), Some(4000), (4000, Some(Budget(3999)))),
        (Tokens(i64::MAX), None, (i64::MAX, Some(Budget(i64::MAX)))),
        (Off, None, (4096, None)),
    ] {
        let chat = thinks(reasoning, tokens_max);
        assert_eq!(budget(&chat), expected, "{reasoning:?} {tokens_max:?}");
    }
}

#[test]
fn newer_models_are_told_an_effort() {
    for (reasoning, effort) in [
        (Reasoning::Effort(Effort::Minimal), "low"),
        (Reasoning::Effort(Effort::High), "high"),
        (Reasoning::Tokens(1024), "low"),
        (Reasoning::Tokens(8192), "medium"),
        (Reasoning::Tokens(32_000), "high"),
    ] {
        let generation = Generation::of(&thinks(reasoning, None), NEW);
        assert_eq!(generation.thinking, Some(Thinking::Adaptive(effort)));
    }
    let off = Generation::of(&thinks(Reasoning::Off, None), NEW);
    assert_eq!(off.thinking, None);
}

#[test]
fn a_forced_call_and_a_begun_answer_go_before_thinking() {
    let tool = Tool {
        name: "f".to_owned(),
        description: None,
        parameters: None,
        strict: None,
    };
    for model in [OLD, NEW] {
        let mut chat = thinks(Reasoning::Effort(Effort::High), None);
        chat.tools = vec![tool.clone()];
        assert!(Generation::of(&chat, model).thinking.is_some());
        chat.tool_choice = Some(ToolChoice::Required);
        assert_eq!(Generation::of(&chat, model).thinking, None);
        let mut chat = thinks(Reasoning::Effort(Effort::High), None);
        let begun = Part::Text("The".to_owned());
        chat.messages.push(says(Role::Assistant, vec![begun]));
        assert_eq!(Generation::of(&chat, model).thinking, None);
    }
}

#[test]
fn results_are_thought_about_with_a_budget_only_after_sealed_thoughts() {
    let call = Part::ToolCall {
        id: "c".to_owned(),
        name: "f".to_owned(),
        arguments: "{}".to_owned(),
    };
    let result = Part::ToolResult {
        id: "c".to_owned(),
        parts: Vec::new(),
        is_error: false,
    };
    let thought = |signature: Option<&str>| Part::Reasoning {
        text: "t".to_owned(),
        signature: signature.map(str::to_owned),
    };
    let chat = |parts: Vec<Part>| {
        let mut chat = thinks(Reasoning::Effort(Effort::Low), None);
        chat.messages.push(says(Role::Assistant, parts));
        chat.messages.push(says(Role::User, vec![result.clone()]));
        chat.messages
            .push(says(Role::User, vec![Part::Text("go on".to_owned())]));
        chat
    };
    assert_eq!(budget(&chat(vec![call.clone()])).1, None);
    assert_eq!(budget(&chat(vec![thought(None), call.clone()])).1, None);
    let sealed = chat(vec![thought(Some("s")), call.clone()]);
    assert_eq!(budget(&sealed).1, Some(Thinking::Budget(1024)));
    let unsealed = Generation::of(&chat(vec![call]), NEW);
    assert_eq!(unsealed.thinking, Some(Thinking::Adaptive("low")));
}

#[test]
fn sampling_is_told_as_far_as_the_model_takes_it() {
    let sampled = |model: &str, temperature, top_p, reasoning| {
        let chat = Chat {
            sampling: Sampling {
                temperature,
                top_p,
                top_k: Some(5),
                ..Sampling::default()
            },
            reasoning,
            ..thinks(Reasoning::Off, None)
        };
        let generation = Generation::of(&chat, model);
        (generation.temperature, generation.top_p, generation.top_k)
    };
    let plain = |model, temperature, top_p| sampled(model, temperature, top_p, None);
    assert_eq!(plain(OLD, Some(1.7), None), (Some(1.0), None, Some(5)));
    assert_eq!(plain(OLD, Some(0.2), Some(0.5)), (Some(0.2), None, Some(5)));
    assert_eq!(plain(OLD, Some(1.0), Some(0.5)), (None, Some(0.5), Some(5)));
    assert_eq!(plain(OLD, Some(1.0), Some(1.0)), (Some(1.0), None, Some(5)));
    assert_eq!(plain(OLD, None, Some(0.5)), (None, Some(0.5), Some(5)));
    let both = plain("claude-3-opus-20240229", Some(0.2), Some(0.5));
    assert_eq!(both, (Some(0.2), Some(0.5), Some(5)));
    assert_eq!(plain(NEW, Some(0.2), Some(0.5)), (None, None, None));
    let thinking = Some(Reasoning::Effort(Effort::Low));
    let thought = |top_p| sampled(OLD, Some(0.2), top_p, thinking);
    assert_eq!(thought(Some(0.5)), (None, None, None));
    assert_eq!(thought(Some(0.96)), (None, Some(0.96), None));
}

#[test]
fn models_before_4_6_go_on_with_a_begun_answer() {
    for (model, expected) in [
        ("claude-3-5-haiku-20241022", true),
        ("claude-sonnet-4-5-20250929", true),
        ("claude-latest", true),
        ("claude-opus-4-6", false),
        ("us.anthropic.claude-sonnet-4-6-v1:0", false),
        (NEW, false),
    ] {
        assert_eq!(takes_prefix(model), expected, "{model}");
    }
}
