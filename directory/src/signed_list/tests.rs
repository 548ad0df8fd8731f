//! Tests of signed lists.

use super::*;
use crate::testing::{Cast, Council, parameters, published};
use proptest::prelude::*;

fn council() -> (Council, Cast) {
    (Council::new(4, 2, parameters(500)), Cast::new(1, 6, 3))
}

fn open(bytes: &[u8], council: &Council) -> Result<SignedList, ListError> {
    UnverifiedList::parse(bytes)?.verify(&council.place())
}

#[test]
fn round_trip_keeps_the_exact_bytes() {
    let (council, cast) = council();
    let wanted = council.secrets.iter().map(|secret| secret.public().clone()).collect::<Vec<_>>();
    let message = council.message_with(2, 5, &published(&cast.all(), 5), |list| list.authorities = Some(wanted));
    let read = open(message.list().bytes(), &council).expect("verifies");
    assert_eq!(&read, message.list());
    assert_eq!((read.authority, read.entries.len(), read.epoch), (2, 10, Epoch(5)));
    assert!(read.contribution.reveal.is_some(), "the first document draws from its own lists");
}

#[test]
fn refusals_name_their_cause() {
    let (mut council, cast) = council();
    let nodes = published(&cast.all(), 5);
    let say = |council: &Council, change: &dyn Fn(&mut List)| {
        let message = council.message_with(1, 5, &nodes, |list| change(list));
        open(message.list().bytes(), council).map(|_| ())
    };
    assert_eq!(say(&council, &|_| ()), Ok(()));
    let elsewhere = Hash::from_bytes([9; 32]);
    assert_eq!(say(&council, &|list| list.network = elsewhere), Err(ListError::WrongNetwork(elsewhere)));
    assert_eq!(say(&council, &|list| list.height = 2), Err(ListError::WrongHeight { found: 2, expected: 1 }));
    assert_eq!(say(&council, &|list| list.authority = 4), Err(ListError::UnknownAuthority(4)));
    assert_eq!(say(&council, &|list| list.authority = 0), Err(ListError::BadSignature(0)), "of another authority");
    council.calm(6, &cast.all());
    assert_eq!(say(&council, &|_| ()), Err(ListError::OldEpoch(Epoch(5))));
    let long = vec![0; MAX_LIST_SIZE + 1];
    assert_eq!(open(&long, &council), Err(ListError::TooLarge { size: long.len(), max: MAX_LIST_SIZE }));
}

#[test]
fn the_largest_list_fits() {
    let (council, _) = council();
    let entry = |number: u16| {
        let mut identity = [0xff; 32];
        identity[..2].copy_from_slice(&number.to_be_bytes());
        Entry {
            identity: Identity::from_bytes(identity),
            role: Role::Store,
            family: Some([7; 32]),
            published: UnixMillis(u64::MAX),
            descriptor: Hash::from_bytes([1; 32]),
        }
    };
    let list = List {
        entries: (0..u16::try_from(MAX_NODES).expect("few")).map(entry).collect(),
        authorities: Some(vec![council.genesis[0].clone(); MAX_AUTHORITIES]),
        addresses: (0..64).map(|n| (Identity::from_bytes([n; 32]), ([0xff_u16; 8], 65_535).into())).collect(),
        ..List::clone(council.message(0, 5, &published(&[], 5)).list())
    };
    let signed = list.sign(council.secret(0));
    assert!(signed.bytes().len() <= MAX_LIST_SIZE, "{} bytes", signed.bytes().len());
    assert_eq!(open(signed.bytes(), &council), Err(ListError::Malformed("authorities (not sorted, or one twice)")));
    let many = List { entries: vec![entry(1); 2], authorities: None, ..List::clone(&signed) }.sign(council.secret(0));
    assert_eq!(open(many.bytes(), &council), Err(ListError::Malformed("list entries (not sorted, or one twice)")));
}

#[test]
fn witnesses_are_one_more_than_may_lie() {
    assert_eq!([1, 2, 3, 4, 6, 7, 10, 64].map(witnesses), [1, 1, 1, 2, 2, 3, 4, 22]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn anything_bent_is_refused(at: prop::sample::Index, bit in 0u8..8) {
        let (council, cast) = council();
        let message = council.message(1, 5, &published(&cast.all(), 5));
        let mut bytes = message.list().bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(open(&bytes, &council).is_err());
        prop_assert!(open(&bytes[..at], &council).is_err());
    }

    #[test]
    fn junk_never_panics(junk in prop::collection::vec(any::<u8>(), 0..600)) {
        let council = Council::new(1, 0, parameters(500));
        prop_assert!(open(&junk, &council).is_err());
        prop_assert!(List::decode(&junk).is_err());
    }

    #[test]
    fn a_bent_list_never_panics_the_reader(at: prop::sample::Index, byte: u8) {
        let (council, cast) = council();
        let mut bytes = council.message(1, 5, &published(&cast.all(), 5)).list().encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = List::decode(&bytes);
        let _ = List::decode(&bytes[..at]);
    }
}
