use std::time::Duration;

use shoal_protocol::{
    consensus::{DrawState, Generation, NodeEntry},
    parameters::Parameters,
    types::{Epoch, Hash, StoreIndex},
};

use super::*;
use crate::findings::{Level, percent};

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

fn identity(n: u8) -> Identity {
    Identity::from_bytes([n; 32])
}

fn node(n: u8, role: Role, layer: Option<Layer>) -> NodeEntry {
    NodeEntry {
        identity: identity(n),
        role,
        layer,
        family: [n; 32],
        addresses: Vec::new(),
        store_index: (role == Role::Store).then_some(StoreIndex(n.into())),
        mix_keys: Vec::new(),
        envelope_keys: Vec::new(),
        since: Epoch(0),
        standby: role == Role::Mix && layer.is_none(),
    }
}

fn document() -> Document {
    let parameters = Parameters::test_network();
    let consensus = Consensus {
        version: 1,
        network: Hash::from_bytes([9; 32]),
        height: 4,
        epoch: Epoch(3),
        previous: Hash::from_bytes([8; 32]),
        valid_from: NOW,
        valid_until: NOW.plus(parameters.epoch() * 3),
        parameters,
        previous_mean_delay_ms: parameters.mean_delay_ms,
        mean_delay_since: Epoch(0),
        authorities: Vec::new(),
        addresses: Vec::new(),
        nodes: vec![
            node(1, Role::Gateway, None),
            node(2, Role::Mix, Some(Layer::L1)),
            node(3, Role::Mix, Some(Layer::L3)),
            node(4, Role::Store, None),
            node(5, Role::Mix, None),
        ],
        absent: Vec::new(),
        suspects: Vec::new(),
        next_store_index: 5,
        generations: vec![Generation {
            number: 1,
            since: Epoch(0),
            retired: None,
            seed: [0; 32],
            stores: vec![StoreIndex(4)],
        }],
        randomness: [0; 32],
        draw: DrawState::default(),
        commitments: Vec::new(),
        reveals: Vec::new(),
        lists: Vec::new(),
    };
    Document { consensus, hash: "cd".repeat(32), signatures: 1 }
}

fn network() -> Network {
    let epoch_ms = Parameters::test_network().epoch_ms;
    Network { name: "test".into(), fingerprint: "a b c".into(), epoch_ms, authorities: vec![identity(100)] }
}

fn known(name: &str, n: Option<u8>) -> Known {
    Known { name: name.into(), identity: n.map(identity), metrics: SocketAddr::from(([127, 0, 0, 1], 1)) }
}

fn ready(text: &str) -> Health {
    Health { ready: Some((true, "ok".into())), samples: Samples::parse(text) }
}

fn make(document: Option<&Document>, known: &[Known], health: &[(&str, Health)], now: UnixMillis) -> View {
    let health = health.iter().map(|(name, health)| ((*name).to_owned(), health.clone())).collect();
    let history = LoopHistory::new(Duration::from_secs(5));
    view(&network(), document, known, &health, &history, &Probing::default(), now)
}

fn texts(view: &View, level: Level) -> String {
    let texts = view.findings.iter().filter(|finding| finding.level == level).map(|finding| finding.text.as_str());
    texts.collect::<Vec<_>>().join(" ")
}

#[test]
fn everybody_stands_in_their_column() {
    let view = make(Some(&document()), &[], &[], NOW);
    let columns: Vec<Column> = view.parties.iter().map(|party| party.column).collect();
    use Column::{Authorities, Gateways, L1, L3, Standby, Stores};
    assert_eq!(columns, [Gateways, L1, L3, Stores, Standby, Authorities]);
    assert!(view.parties.iter().all(|party| party.state == State::Listed), "nobody can be asked");
    assert_eq!(view.parties[0].name, "01010101");
}

#[test]
fn health_is_joined_by_name_and_identity() {
    let all = [known("authority-1", None), known("mix-1", Some(2)), known("store-1", Some(4))];
    let metrics = "shoal_packets_received_total 12\nshoal_packets_dropped_total{reason=\"replayed\"} 3\n\
                   shoal_delay_queue_packets 2\nshoal_loops_sent_total 5\nshoal_loops_returned_total 4\n";
    let waiting = Health { ready: Some((false, "no links".into())), samples: Samples::default() };
    let health = [("mix-1", ready(metrics)), ("store-1", waiting), ("authority-1", ready(""))];
    let view = make(Some(&document()), &all, &health, NOW);
    let find = |name: &str| view.parties.iter().find(|party| party.name == name).expect("is there");
    let mix = find("mix-1");
    assert_eq!((mix.packets_received, mix.queue, mix.loops), (Some(12), Some(2), Some((5, 4))));
    assert_eq!(mix.dropped, [("replayed".to_owned(), 3)]);
    assert_eq!(find("store-1").reason, "no links");
    assert!(texts(&view, Level::Notice).contains("Not ready: store-1."));
    assert_eq!(find("authority-1").state, State::Ready);
}

#[test]
fn who_runs_and_is_not_listed_is_said() {
    let view = make(Some(&document()), &[known("gateway-9", Some(77))], &[("gateway-9", ready(""))], NOW);
    let party = view.parties.iter().find(|party| party.name == "gateway-9").expect("is shown");
    assert!(!party.in_consensus && party.column == Column::Gateways);
    assert!(texts(&view, Level::Notice).contains("Not in the newest document: gateway-9."));
}

#[test]
fn the_age_of_the_document_decides() {
    let epoch = Parameters::test_network().epoch();
    assert!(texts(&make(Some(&document()), &[], &[], NOW), Level::Good).contains("epoch 3 certified"));
    let late = make(Some(&document()), &[], &[], NOW.plus(epoch * 2));
    assert!(texts(&late, Level::Notice).contains("is missing"));
    let over = make(Some(&document()), &[], &[], NOW.plus(epoch * 4));
    assert!(texts(&over, Level::Alarm).contains("has expired"));
    assert!(texts(&make(None, &[], &[], NOW), Level::Alarm).contains("No certified document"));
}

#[test]
fn a_silent_party_is_an_alarm_and_comes_first() {
    let view = make(Some(&document()), &[known("mix-1", Some(2))], &[], NOW);
    assert_eq!(view.findings.first().map(|finding| finding.level), Some(Level::Alarm));
    assert!(texts(&view, Level::Alarm).contains("No answer from mix-1."));
}

#[test]
fn loops_pass_over_nodes() {
    let mut history = LoopHistory::new(Duration::from_secs(5));
    for _ in 0..9 {
        history.ended(NOW, &[identity(2)], Some(Duration::from_millis(90)));
    }
    history.ended(NOW, &[identity(3)], None);
    let probing = Probing { running: true, connected: true, ..Probing::default() };
    let document = document();
    let view = view(&network(), Some(&document), &[], &BTreeMap::new(), &history, &probing, NOW);
    assert_eq!(view.parties[1].probed, Some(Passed { returned: 9, lost: 0 }));
    assert!(texts(&view, Level::Notice).contains("90.0 % of the loops come back."));
}

#[test]
fn the_quorum_is_two_thirds_and_one() {
    for (authorities, needed) in [(1, 1), (4, 3), (7, 5), (10, 7)] {
        assert_eq!(authorities - (authorities - 1) / 3, needed, "{authorities}");
    }
}

#[test]
fn a_part_is_never_rounded_up_to_all() {
    assert_eq!(percent(0.9999), "99.9 %");
    assert_eq!(percent(1.0), "100 %");
    assert_eq!(percent(0.0), "0.0 %");
}
