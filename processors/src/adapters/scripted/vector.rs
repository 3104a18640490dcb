//! Vectors that mean nothing, but are always the same for the same text.

use schemas::model::EmbedInput;

/// Length when none is asked for.
const DIMENSIONS: usize = 64;
/// Longest that is made.
const DIMENSIONS_MAX: usize = 4_096;

/// The vector of `input`, of length 1.
pub(super) fn of(input: &EmbedInput, dimensions: Option<i64>) -> Vec<f32> {
    let asked = dimensions.and_then(|asked| usize::try_from(asked).ok());
    let length = asked.unwrap_or(DIMENSIONS).clamp(1, DIMENSIONS_MAX);
    let mut state = match input {
        EmbedInput::Text(text) => hash(text.bytes()),
        EmbedInput::Tokens(tokens) => hash(tokens.iter().flat_map(|token| token.to_le_bytes())),
    };
    let mut vector: Vec<f32> = Vec::with_capacity(length);
    for _ in 0..length {
        state = mixed(state);
        // The upper bits, from -1 to 1: a whole number of 24 bits is exact in 32 bits of floating point.
        let bits = i32::try_from(state >> 40).unwrap_or_default();
        vector.push((bits - (1 << 23)) as f32 / (1 << 23) as f32);
    }
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|value| *value /= norm);
    }
    vector
}

/// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>): the same on every machine and for ever.
fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The next state of SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>), mixed.
fn mixed(state: u64) -> u64 {
    let mut mixed = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_has_the_same_vector_of_length_one() {
        let vector = |text: &str, dimensions| of(&EmbedInput::Text(text.to_owned()), dimensions);
        let one = vector("hello", None);
        assert_eq!(one.len(), DIMENSIONS);
        assert_eq!(one, vector("hello", None));
        assert_ne!(one, vector("hallo", None));
        let norm: f32 = one.iter().map(|value| value * value).sum();
        assert!((norm - 1.0).abs() < 1e-5, "{norm}");
        assert_eq!(vector("hello", Some(3)).len(), 3);
        assert_eq!(vector("hello", Some(i64::MAX)).len(), DIMENSIONS_MAX);
        assert_ne!(
            of(&EmbedInput::Tokens(vec![1]), None),
            of(&EmbedInput::Tokens(vec![2]), None)
        );
    }
}
