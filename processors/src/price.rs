//! What calls cost.

use runtime::config::Price;
use schemas::event::Usage;

/// Prices are for so many tokens.
const TOKENS: i128 = 1_000_000;

/// Cost of a call in nano-dollars, rounded to the nearest. Reasoning is part of the answer's
/// tokens, cached tokens are part of the prompt's.
pub(crate) fn cost_nanos(price: &Price, usage: &Usage) -> i64 {
    let prompt = usage.prompt_tokens.max(0);
    let cached = usage.cached_tokens.clamp(0, prompt);
    let of = |tokens: i64, price: i64| i128::from(tokens) * i128::from(price);
    let total = of(prompt - cached, price.input)
        + of(cached, price.cached_input)
        + of(usage.completion_tokens.max(0), price.output);
    i64::try_from((total + TOKENS / 2) / TOKENS).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICE: Price = Price {
        input: 2_500_000_000,
        cached_input: 1_250_000_000,
        output: 10_000_000_000,
    };

    fn usage(prompt_tokens: i64, cached_tokens: i64, completion_tokens: i64) -> Usage {
        Usage {
            prompt_tokens,
            cached_tokens,
            completion_tokens,
            ..Usage::default()
        }
    }

    #[test]
    fn cached_tokens_cost_what_they_cost_and_the_others_the_rest() {
        assert_eq!(cost_nanos(&PRICE, &usage(1_000, 0, 0)), 2_500_000);
        assert_eq!(cost_nanos(&PRICE, &usage(1_000, 400, 0)), 2_000_000);
        assert_eq!(cost_nanos(&PRICE, &usage(0, 0, 3)), 30_000);
    }

    #[test]
    fn costs_are_rounded_once_and_never_overflow() {
        let cheap = Price {
            input: 300_000,
            cached_input: 0,
            output: 300_000,
        };
        assert_eq!(cost_nanos(&cheap, &usage(1, 0, 1)), 1, "0.3 and 0.3");
        let most = usage(i64::MAX, 0, i64::MAX);
        assert_eq!(cost_nanos(&PRICE, &most), i64::MAX);
        assert_eq!(cost_nanos(&PRICE, &usage(-5, 9, -5)), 0);
    }
}
