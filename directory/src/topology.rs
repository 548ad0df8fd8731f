//! Who sits in which layer: the draw, and what happens between two draws.

use std::collections::BTreeMap;

use shoal_protocol::{Hash, Identity, Layer};

/// A mix that may be seated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its identity.
    pub identity: Identity,
    /// Its operator.
    pub family: [u8; 32],
}

/// Seats of a draw: at most `width` mixes a layer, all mixes of a family in one layer, everything else by `seed`.
///
/// Families are seated largest first, each in the layer with the most free seats, so how many seats are filled does not
/// depend on the seed; ties are broken by it. Mixes of a family that do not fit stand by.
#[must_use]
pub fn draw(seed: &[u8; 32], width: usize, candidates: &[Candidate]) -> BTreeMap<Identity, Layer> {
    let mut families: BTreeMap<[u8; 32], Vec<Identity>> = BTreeMap::new();
    for candidate in candidates {
        families.entry(candidate.family).or_default().push(candidate.identity);
    }
    let mut families: Vec<([u8; 32], Vec<Identity>)> = families.into_iter().collect();
    families.sort_by_cached_key(|(family, members)| {
        (std::cmp::Reverse(members.len().min(width)), rank(seed, "shoal/1 family order", family))
    });
    let mut free: BTreeMap<Layer, usize> = Layer::ALL.map(|layer| (layer, width)).into();
    let mut seats = BTreeMap::new();
    for (family, mut members) in families {
        let order = |layer: &Layer| {
            let mut tied = family.to_vec();
            tied.push(layer.number());
            rank(seed, "shoal/1 layer order", &tied)
        };
        let Some((layer, left)) = free.iter_mut().max_by_key(|(layer, left)| (**left, order(layer))) else { break };
        members.sort_by_cached_key(|identity| rank(seed, "shoal/1 member order", identity.as_bytes()));
        for identity in members.into_iter().take(*left) {
            seats.insert(identity, *layer);
            *left -= 1;
        }
    }
    seats
}

/// How many seats of each layer `seats` fills.
#[must_use]
pub fn filled(seats: &BTreeMap<Identity, Layer>) -> [usize; 3] {
    Layer::ALL.map(|layer| seats.values().filter(|seated| **seated == layer).count())
}

/// Fills empty seats from `standbys` in hash order under `seed`. `seated` is who has a seat now, with its family.
///
/// A standby whose family already sits in a layer may only go there.
#[must_use]
pub fn fill_vacancies(
    seed: &[u8; 32],
    width: usize,
    seated: &[(Candidate, Layer)],
    standbys: &[Candidate],
) -> BTreeMap<Identity, Layer> {
    let mut families: BTreeMap<[u8; 32], Layer> =
        seated.iter().map(|(candidate, layer)| (candidate.family, *layer)).collect();
    let mut taken = Layer::ALL.map(|layer| (layer, seated.iter().filter(|(_, of)| *of == layer).count()));
    let mut order = standbys.to_vec();
    order.sort_by_cached_key(|candidate| standby_rank(seed, &candidate.identity));
    let mut seats = BTreeMap::new();
    for candidate in order {
        let bound = families.get(&candidate.family).copied();
        let open = taken
            .iter_mut()
            .filter(|(layer, count)| *count < width && bound.is_none_or(|bound| bound == *layer))
            .min_by_key(|(_, count)| *count);
        if let Some((layer, count)) = open {
            *count += 1;
            families.insert(candidate.family, *layer);
            seats.insert(candidate.identity, *layer);
        }
    }
    seats
}

/// Place of a standby in the queue for seats.
#[must_use]
pub fn standby_rank(seed: &[u8; 32], identity: &Identity) -> Hash {
    rank(seed, "shoal/1 standby order", identity.as_bytes())
}

fn rank(seed: &[u8; 32], context: &'static str, item: &[u8]) -> Hash {
    Hash::of(context, &[seed.as_slice(), item].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(number: u8, family: Option<u8>) -> Candidate {
        let identity = Identity::from_bytes([number; 32]);
        Candidate { identity, family: family.map_or(*identity.as_bytes(), |family| [family; 32]) }
    }

    fn singles(numbers: std::ops::RangeInclusive<u8>) -> Vec<Candidate> {
        numbers.map(|number| candidate(number, None)).collect()
    }

    #[test]
    fn exact_numbers_fill_every_layer() {
        for seed in 0..20 {
            let seats = draw(&[seed; 32], 2, &singles(1..=6));
            assert_eq!(filled(&seats), [2, 2, 2]);
        }
    }

    #[test]
    fn the_seed_decides_who_sits_where() {
        let placements: std::collections::BTreeSet<Vec<_>> =
            (0..20).map(|seed| draw(&[seed; 32], 1, &singles(1..=3)).into_iter().collect()).collect();
        assert!(placements.len() > 3, "six orders exist, twenty seeds gave {}", placements.len());
        assert_eq!(draw(&[1; 32], 1, &singles(1..=3)), draw(&[1; 32], 1, &singles(1..=3)));
    }

    #[test]
    fn surplus_stands_by() {
        let seats = draw(&[7; 32], 2, &singles(1..=9));
        assert_eq!(seats.len(), 6);
    }

    #[test]
    fn a_family_never_spans_layers() {
        let mut mixes = singles(1..=5);
        mixes.extend((10..=13).map(|number| candidate(number, Some(99))));
        for seed in 0..20 {
            let seats = draw(&[seed; 32], 2, &mixes);
            assert_eq!(filled(&seats), [2, 2, 2]);
            let layers: std::collections::BTreeSet<_> =
                (10..=13).filter_map(|number| seats.get(&Identity::from_bytes([number; 32]))).collect();
            assert_eq!(layers.len(), 1);
        }
    }

    #[test]
    fn vacancies_go_to_standbys_by_hash_order() {
        let seated = [(candidate(1, None), Layer::L1), (candidate(2, None), Layer::L3)];
        let standbys = singles(10..=12);
        let seed = [5; 32];
        let seats = fill_vacancies(&seed, 1, &seated, &standbys);
        let first = standbys.iter().min_by_key(|one| standby_rank(&seed, &one.identity)).expect("three stand by");
        assert_eq!(seats, [(first.identity, Layer::L2)].into());
        assert!(fill_vacancies(&seed, 1, &seated, &[]).is_empty());
    }

    #[test]
    fn a_standby_joins_its_family_or_waits() {
        let seated = [(candidate(1, Some(9)), Layer::L1), (candidate(2, None), Layer::L2)];
        let seats = fill_vacancies(&[5; 32], 1, &seated, &[candidate(10, Some(9))]);
        assert!(seats.is_empty(), "its family sits in L1, which is full");
        let seats = fill_vacancies(&[5; 32], 2, &seated, &[candidate(10, Some(9))]);
        assert_eq!(seats.values().collect::<Vec<_>>(), [&Layer::L1]);
    }

    proptest! {
        #[test]
        fn draws_keep_every_rule(seed: [u8; 32], width in 1usize..4, families in prop::collection::vec(0u8..6, 0..30)) {
            let mixes: Vec<_> =
                (1u8..).zip(&families).map(|(number, family)| candidate(number, (*family > 0).then_some(200 + family))).collect();
            let seats = draw(&seed, width, &mixes);
            prop_assert!(filled(&seats).into_iter().all(|count| count <= width));
            for one in &mixes {
                for two in &mixes {
                    if let (Some(a), Some(b)) = (seats.get(&one.identity), seats.get(&two.identity)) {
                        prop_assert!(one.family != two.family || a == b);
                    }
                }
            }
            let sorted = |mut counts: [usize; 3]| {
                counts.sort_unstable();
                counts
            };
            prop_assert_eq!(sorted(filled(&seats)), sorted(filled(&draw(&[0; 32], width, &mixes))));
        }
    }
}
