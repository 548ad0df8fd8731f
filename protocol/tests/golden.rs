//! The committed vectors in `testdata/golden.json`: a change that breaks them is a change of the wire.

use serde_json::Value;
use shoal_protocol::address::Address;
use shoal_protocol::boxes::{self, BoxBody, BoxId, ChainSecret, WriteKey};
use shoal_protocol::consensus::{TrustAnchor, UnverifiedConsensus, set_hash};
use shoal_protocol::inbox::{InboxKey, append_work, card_chain, inbox_id, verify_read};
use shoal_protocol::link::Attach;
use shoal_protocol::request::{Envelope, Operation};
use shoal_protocol::safety_number::{Claimed, SafetyNumber};
use shoal_protocol::sphinx::{Unwrapped, open_header};
use shoal_protocol::surb::Surb;
use shoal_protocol::{Epoch, Hash, Packet, StoreIndex, X25519Secret};

fn golden() -> Value {
    serde_json::from_str(include_str!("../testdata/golden.json")).expect("golden.json is JSON")
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("text")).expect("hex")
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().expect("length")
}

#[test]
fn packets_unwrap_to_the_recorded_steps() {
    let golden = &golden()["packets"];
    let mut packet = Packet::from_slice(&bytes(&golden["request"])).expect("length");
    for (key, step) in golden["keys"].as_array().expect("keys").iter().zip(golden["steps"].as_array().expect("steps")) {
        let header = open_header(&packet, &X25519Secret::from_bytes(&array(key))).expect("header");
        assert_eq!(header.replay_tag(), array::<32>(&step["tag"]));
        match header.finish().expect("unwraps") {
            Unwrapped::Forward { next, delay, packet: on } => {
                assert_eq!(next, array::<32>(&step["next"]));
                assert_eq!(delay.as_nanos(), u128::from(step["delay_ns"].as_u64().expect("number")));
                assert_eq!(blake3::hash(on.as_bytes()).to_string(), step["packet_blake3"]);
                packet = on;
            }
            Unwrapped::Final { identifier, payload } => {
                assert_eq!(identifier, array::<16>(&step["identifier"]));
                let plaintext = payload.open().expect("intact");
                assert!(plaintext.starts_with(&bytes(&golden["plaintext"])));
            }
        }
    }
}

#[test]
fn a_surb_makes_the_recorded_reply() {
    let golden = &golden()["packets"];
    let surb = Surb::from_slice(&bytes(&golden["surb"])).expect("length");
    let (first, reply) = surb.reply(b"golden reply").expect("usable");
    assert_eq!(first, [1; 32]);
    assert_eq!(reply.as_bytes().as_slice(), bytes(&golden["reply"]));
}

#[test]
fn boxes_and_inboxes_have_the_recorded_names() {
    let golden = &golden()["boxes"];
    let writer = WriteKey::from_seed(&array(&golden["writer_seed"]));
    let chain = ChainSecret::from_bytes(array(&golden["chain"]));
    for one in golden["boxes"].as_array().expect("boxes") {
        let index = one["index"].as_u64().expect("number");
        let id = boxes::id(&writer.public(), &chain, index);
        assert_eq!(id.as_bytes(), &array::<32>(&one["id"]));
        let body = BoxBody::from_slice(&bytes(&one["body"])).expect("length");
        assert!(boxes::verify(&id, &body, &array(&one["signature"])));
        assert_eq!(boxes::sign(&writer, &chain, index, &body), array::<64>(&one["signature"]));
        assert_eq!(boxes::open(&chain, index, &id, &body).expect("opens"), b"golden box");
    }
    let inbox = InboxKey::from_seed(&array(&golden["inbox_seed"]));
    let id = inbox_id(&inbox.public(), 1);
    assert_eq!(id.as_bytes(), &array::<32>(&golden["inbox_id"]));
    assert!(verify_read(&id, 6, Epoch(2), &array(&golden["read_signature"])));
    let body = BoxBody::from_slice(&bytes(&golden["append_body"])).expect("length");
    assert!(append_work(&id, 1, Epoch(2), &body, 10, &array(&golden["append_nonce"])));
    let card = card_chain(&inbox.public(), 1, 8);
    assert_eq!(boxes::id(inbox.public().write_public(), &card, 0).as_bytes(), &array::<32>(&golden["card_box_0"]));
    assert_eq!(Address::new(inbox.public()).to_string(), golden["address"].as_str().expect("text"));
    assert_eq!(Attach::from_bytes(array(&golden["attach"])).address().as_bytes(), &array::<32>(&golden["session"]));
}

#[test]
fn a_safety_number_has_its_recorded_forms() {
    let golden = &golden()["safety_number"];
    let keys = [0, 1].map(|at| InboxKey::from_seed(&array(&golden["inbox_seeds"][at])).public());
    for (at, key) in keys.iter().enumerate() {
        assert_eq!(Address::new(*key).to_string(), golden["addresses"][at].as_str().expect("text"));
    }
    let network = Hash::from_bytes(array(&golden["network"]));
    for [one, other] in [keys, [keys[1], keys[0]]] {
        let number = SafetyNumber::of(&one, &other, &network);
        assert_eq!(number.as_bytes(), &array::<32>(&golden["number"]));
        for (form, said) in [("digits", number.digits()), ("words", number.words()), ("code", number.code())] {
            assert_eq!(said, golden[form].as_str().expect("text"));
            assert!(number.matches(&said.parse::<Claimed>().expect("a safety number")));
        }
    }
}

#[test]
fn envelopes_open_for_both_replicas() {
    let golden = &golden()["envelopes"];
    let envelope = Envelope::from_slice(&bytes(&golden["envelope"])).expect("length");
    assert_eq!(envelope.replicas(), [StoreIndex(7), StoreIndex(21)]);
    for (position, index) in [7, 21].into_iter().enumerate() {
        let key = X25519Secret::from_bytes(&array(&golden["replica_keys"][position]));
        let open = envelope.open(StoreIndex(index), &key).expect("opens");
        assert_eq!(open.operation, Ok(Operation::Get { id: BoxId::from_bytes(array(&golden["get"])) }));
    }
}

#[test]
fn the_recorded_difference_leads_to_the_recorded_document() {
    let golden = &golden()["documents"];
    let network = Hash::from_bytes([1; 32]);
    let old = UnverifiedConsensus::parse(&bytes(&golden["old"])).expect("a document");
    let old = old.dangerously_trust_own_copy(&network).expect("of this network");
    assert_eq!(old.hash(), Hash::from_bytes(array(&golden["old_hash"])));
    assert_eq!(set_hash(&old.authorities), Hash::from_bytes(array(&golden["set"])));
    let new = old.apply(&bytes(&golden["difference"])).expect("leads on");
    assert_eq!(new, bytes(&golden["new"]));
    let anchor = TrustAnchor { network, authorities: old.authorities.clone() };
    let new = UnverifiedConsensus::parse(&new).and_then(|parsed| parsed.verify_after(&anchor, Some(old.mark())));
    assert_eq!(new.map(|new| new.hash()), Ok(Hash::from_bytes(array(&golden["new_hash"]))));
}
