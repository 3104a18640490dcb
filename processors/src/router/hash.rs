//! Hashes that are the same in every process, so that all of them send a conversation to the
//! same deployment.

/// FNV-1a (<http://www.isthe.com/chongo/tech/comp/fnv/>), 64 bits.
pub(crate) fn bytes(bytes: &[u8]) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325;
    bytes.iter().fold(start, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Both together, well spread (the finalizer of SplitMix64, <https://doi.org/10.1145/2714064.2660195>).
pub(crate) fn mix(left: u64, right: u64) -> u64 {
    let mut mixed = left ^ right.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A hash as a number above 0 and at most 1.
pub(crate) fn fraction(hash: u64) -> f64 {
    ((hash >> 11) + 1) as f64 / (1_u64 << 53) as f64
}
