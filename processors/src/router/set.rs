//! A set of deployments without allocation.

const WORDS: usize = 4;

/// Places of deployments below [`Set::SIZE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Set([u64; WORDS]);

impl Set {
    /// As many as a model can have.
    pub(super) const SIZE: usize = WORDS * 64;

    pub(super) fn is_empty(self) -> bool {
        self.0 == [0; WORDS]
    }

    pub(super) fn len(self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub(super) fn contains(self, place: usize) -> bool {
        self.0
            .get(place / 64)
            .is_some_and(|word| word & (1 << (place % 64)) != 0)
    }

    pub(super) fn insert(&mut self, place: usize) {
        if let Some(word) = self.0.get_mut(place / 64) {
            *word |= 1 << (place % 64);
        }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & !other.0[word]))
    }

    /// Its places, ascending.
    pub(super) fn iter(self) -> impl Iterator<Item = usize> {
        self.0
            .into_iter()
            .enumerate()
            .flat_map(|(index, mut word)| {
                std::iter::from_fn(move || {
                    if word == 0 {
                        return None;
                    }
                    let place = word.trailing_zeros() as usize;
                    word &= word - 1;
                    Some(index * 64 + place)
                })
            })
    }

    /// The place at `rank`, counted from 0.
    pub(super) fn nth(self, mut rank: usize) -> Option<usize> {
        for (index, mut word) in self.0.into_iter().enumerate() {
            let count = word.count_ones() as usize;
            if rank >= count {
                rank -= count;
                continue;
            }
            for _ in 0..rank {
                word &= word - 1;
            }
            return Some(index * 64 + word.trailing_zeros() as usize);
        }
        None
    }

    /// The first place from `start` on, around the end.
    pub(super) fn from(self, start: usize) -> Option<usize> {
        let first = self.iter().find(|place| *place >= start);
        first.or_else(|| self.iter().next())
    }
}

impl FromIterator<usize> for Set {
    fn from_iter<I: IntoIterator<Item = usize>>(places: I) -> Self {
        let mut set = Self::default();
        for place in places {
            set.insert(place);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(
            left in proptest::collection::btree_set(0..Set::SIZE, 0..40),
            right in proptest::collection::btree_set(0..Set::SIZE, 0..40),
            start in 0..Set::SIZE,
        ) {
            let set = |places: &BTreeSet<usize>| places.iter().copied().collect::<Set>();
            let (a, b) = (set(&left), set(&right));
            let places = |set: Set| set.iter().collect::<BTreeSet<usize>>();
            prop_assert_eq!(places(a.and(b)), &left & &right);
            prop_assert_eq!(places(a.without(b)), &left - &right);
            prop_assert_eq!(a.len(), left.len());
            for (rank, place) in left.iter().enumerate() {
                prop_assert_eq!(a.nth(rank), Some(*place));
                prop_assert!(a.contains(*place));
            }
            prop_assert_eq!(a.nth(left.len()), None);
            let around = left.range(start..).next().or_else(|| left.iter().next());
            prop_assert_eq!(a.from(start), around.copied());
        }
    }
}
