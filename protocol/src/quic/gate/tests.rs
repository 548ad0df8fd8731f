use super::super::group::groups;
use super::*;
use std::net::{Ipv4Addr, Ipv6Addr};

const LIMITS: Limits =
    Limits { connections: 100, guests: 2, handshakes: 20, retry_above: 5, per_prefix: 8, handshakes_per_prefix: 100 };

fn address(a: u8, d: u8) -> IpAddr {
    Ipv4Addr::new(a, 0, 0, d).into()
}

fn admit(gate: &Arc<Gate>, from: IpAddr, validated: bool, open: usize) -> Option<(Seat, Handshaking)> {
    match gate.judge(from, validated, open) {
        Verdict::Admit(seat, handshaking) => Some((seat, handshaking)),
        Verdict::Retry | Verdict::Refuse => None,
    }
}

#[test]
fn a_quiet_gate_admits_and_a_full_one_refuses() {
    let gate = Gate::new(LIMITS);
    assert!(matches!(gate.judge(address(10, 1), false, 0), Verdict::Admit(..)));
    assert!(matches!(gate.judge(address(10, 1), true, 100), Verdict::Refuse));
}

#[test]
fn many_handshakes_demand_validation_and_then_refuse() {
    let gate = Gate::new(LIMITS);
    let mut held = Vec::new();
    for n in 0..5 {
        held.push(admit(&gate, address(n, 1), false, 0).expect("below the mark"));
    }
    assert!(matches!(gate.judge(address(99, 1), false, 0), Verdict::Retry));
    for n in 5..10 {
        held.push(admit(&gate, address(n, 1), true, 0).expect("validated"));
    }
    // half of twenty
    assert!(matches!(gate.judge(address(99, 1), true, 0), Verdict::Refuse));
    assert_eq!((gate.turned_away().asked_to_retry(), gate.turned_away().refused()), (1, 1));
    held.clear();
    assert!(matches!(gate.judge(address(99, 1), false, 0), Verdict::Admit(..)));
}

#[test]
fn a_prefix_has_its_share_and_nobody_fills_it_without_validation() {
    let gate = Gate::new(LIMITS);
    let mut seats = Vec::new();
    for n in 0..4 {
        seats.push(admit(&gate, address(10, n), false, 0).expect("below half").0);
    }
    assert!(matches!(gate.judge(address(10, 9), false, 0), Verdict::Retry));
    for n in 4..8 {
        seats.push(admit(&gate, address(10, n), true, 0).expect("validated").0);
    }
    assert!(matches!(gate.judge(address(10, 9), true, 0), Verdict::Refuse));
    assert!(matches!(gate.judge(address(11, 9), false, 0), Verdict::Admit(..)));
    seats.clear();
    assert!(gate.counts().groups.is_empty());
}

#[test]
fn guests_have_a_cap_of_their_own() {
    let gate = Gate::new(LIMITS);
    let mut seats: Vec<_> = (0..3).map(|n| admit(&gate, address(n, 1), false, 0).expect("quiet").0).collect();
    assert!(seats[0].seat_guest() && seats[0].seat_guest() && seats[1].seat_guest());
    assert!(!seats[2].seat_guest());
    drop(seats.remove(0));
    assert!(seats[1].seat_guest());
}

#[test]
fn loopback_is_not_counted_and_mapped_addresses_are_the_same() {
    for own in [Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), Ipv6Addr::LOCALHOST.into()] {
        let own: IpAddr = own;
        assert_eq!(groups(own, false), [None, None]);
    }
    let plain: IpAddr = Ipv4Addr::new(192, 0, 2, 7).into();
    let mapped: IpAddr = Ipv4Addr::new(192, 0, 2, 9).to_ipv6_mapped().into();
    assert_eq!(groups(plain, false), groups(mapped, false));
}

/// An address of the /48 `[provider, customer]` of IPv6.
fn v6(provider: u16, customer: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, provider, customer, 0, 0, 0, 0, 1).into()
}

#[test]
fn stalled_handshakes_of_a_handful_of_prefixes_keep_nobody_out() {
    let gate = Gate::new(Limits::default());
    let listed = v6(0xffff, 1);
    gate.expect_from([listed]);
    let mut held = Vec::new();
    // proved, and then silent: sixteen a prefix, thirty-two a provider
    for prefix in 0..4 {
        let mut places = 0;
        while let Some(admitted) = admit(&gate, v6(1, prefix), true, held.len()) {
            held.push(admitted);
            places += 1;
        }
        assert_eq!(places, if prefix < 2 { 16 } else { 0 });
    }
    assert!(admit(&gate, v6(2, 1), true, held.len()).is_some(), "somebody else");
    // who has addresses of many providers fills a half, and keeps no node out
    for provider in 2..100 {
        for customer in 0..4 {
            while let Some(admitted) = admit(&gate, v6(provider, customer), true, held.len()) {
                held.push(admitted);
            }
        }
    }
    assert_eq!(held.len(), 512);
    assert!(matches!(gate.judge(v6(0x99, 1), true, held.len()), Verdict::Refuse));
    assert!(matches!(gate.judge(listed, false, held.len()), Verdict::Retry), "it has to prove itself");
    let mut nodes = Vec::new();
    while let Some(admitted) = admit(&gate, listed, true, held.len()) {
        nodes.push(admitted);
    }
    assert_eq!(nodes.len(), 16, "a listed address has its cap, too");
    drop((held, nodes));
    let counts = gate.counts();
    assert_eq!((counts.handshakes, counts.unlisted, counts.groups.len()), (0, 0, 0));
}

#[test]
fn a_provider_has_four_times_what_a_prefix_has_and_its_nodes_are_not_in_it() {
    let gate = Gate::new(LIMITS);
    let node = v6(1, 77);
    gate.expect_from([node]);
    let mut seats = Vec::new();
    for customer in 0..10 {
        // the handshake is over: only the link counts
        while let Some((seat, _)) = admit(&gate, v6(1, customer), true, 0) {
            seats.push(seat);
        }
    }
    assert_eq!(seats.len(), 32);
    assert!(matches!(gate.judge(v6(1, 50), false, 0), Verdict::Retry), "who has not proved it fills nobody's share");
    assert!(matches!(gate.judge(v6(1, 50), true, 0), Verdict::Refuse));
    assert!(matches!(gate.judge(node, true, 0), Verdict::Admit(..)));
    assert!(matches!(gate.judge(v6(2, 1), false, 0), Verdict::Admit(..)));
}
