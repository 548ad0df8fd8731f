//! Prints fresh golden vectors: `cargo run -p shoal-protocol --example golden > protocol/testdata/golden.json`.
//!
//! The Sphinx crate fills headers from its own generator, so packets differ at every run; what they must unwrap to does
//! not. `tests/golden.rs` reads the committed file.
#![expect(clippy::print_stdout, reason = "an example that prints")]

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use shoal_protocol::address::Address;
use shoal_protocol::authority::AuthoritySecret;
use shoal_protocol::boxes::{self, ChainSecret, WriteKey};
use shoal_protocol::consensus::{
    AuthorityAddress, Consensus, ListHash, NodeEntry, Share, Suspect, UnverifiedConsensus, certify, difference,
    set_hash,
};
use shoal_protocol::epoch::Schedule;
use shoal_protocol::inbox::{InboxKey, card_chain, find_nonce, inbox_id};
use shoal_protocol::link::Attach;
use shoal_protocol::parameters::Parameters;
use shoal_protocol::request::{Answer, Operation, Status, pack_reply, seal_envelope};
use shoal_protocol::safety_number::SafetyNumber;
use shoal_protocol::sphinx::{Hop, Unwrapped, build, open_header};
use shoal_protocol::{Epoch, Hash, IdentityKey, Role, StoreIndex, UnixMillis, X25519Secret, surb};
use std::time::Duration;

type Failure = Box<dyn std::error::Error>;

fn packets(rng: &mut StdRng) -> Result<Value, Failure> {
    let mut keys = Vec::new();
    let mut hops = Vec::new();
    for i in 1..=5u8 {
        let key = X25519Secret::generate(rng);
        let delay = Duration::from_nanos(u64::from(i % 5) * 1_234_567);
        hops.push(Hop { address: [i; 32], key: key.public(), delay });
        keys.push(hex::encode(key.to_bytes()));
    }
    let request = build(b"golden request", &hops, [7; 16], rng)?;
    let (block, _) = surb::build(&hops, [9; 16], rng)?;
    let (_, reply) = block.reply(b"golden reply")?;
    let mut steps = Vec::new();
    let mut packet = request.clone();
    for key in &keys {
        let mut secret = [0; 32];
        hex::decode_to_slice(key, &mut secret)?;
        let header = open_header(&packet, &X25519Secret::from_bytes(&secret))?;
        let tag = hex::encode(header.replay_tag());
        match header.finish()? {
            Unwrapped::Forward { next, delay, packet: on } => {
                steps.push(json!({"tag": tag, "next": hex::encode(next), "delay_ns": delay.as_nanos() as u64,
                    "packet_blake3": blake3::hash(on.as_bytes()).to_string()}));
                packet = on;
            }
            Unwrapped::Final { identifier, .. } => {
                steps.push(json!({"tag": tag, "identifier": hex::encode(identifier)}));
            }
        }
    }
    Ok(json!({"keys": keys, "request": hex::encode(request.as_bytes()), "steps": steps,
        "surb": hex::encode(block.as_bytes()), "reply": hex::encode(reply.as_bytes()),
        "plaintext": hex::encode(b"golden request")}))
}

fn all_boxes(rng: &mut StdRng) -> Result<Value, Failure> {
    let writer = WriteKey::from_seed(&[3; 32]);
    let chain = ChainSecret::from_bytes([4; 32]);
    let mut list = Vec::new();
    for index in [0u64, 1, u64::MAX] {
        let id = boxes::id(&writer.public(), &chain, index);
        let body = boxes::seal(&chain, index, &id, b"golden box", rng)?;
        list.push(json!({"index": index, "id": hex::encode(id.as_bytes()), "body": hex::encode(body.as_bytes()),
            "signature": hex::encode(boxes::sign(&writer, &chain, index, &body))}));
    }
    let inbox = InboxKey::from_seed(&[5; 32]);
    let id = inbox_id(&inbox.public(), 1);
    let body = boxes::BoxBody::random(rng);
    let nonce = find_nonce(&id, 1, Epoch(2), &body, 10, rng).ok_or("no nonce")?;
    Ok(json!({"writer_seed": hex::encode([3; 32]), "chain": hex::encode([4; 32]), "boxes": list,
        "inbox_seed": hex::encode([5; 32]), "inbox_id": hex::encode(id.as_bytes()),
        "read_signature": hex::encode(inbox.sign_read(1, 6, Epoch(2))),
        "append_body": hex::encode(body.as_bytes()), "append_nonce": hex::encode(nonce),
        "card_box_0": hex::encode(boxes::id(inbox.public().write_public(), &card_chain(&inbox.public(), 1, 8), 0).as_bytes()),
        "address": Address::new(inbox.public()).to_string(),
        "attach": hex::encode([6; 32]), "session": hex::encode(Attach::from_bytes([6; 32]).address().as_bytes())}))
}

fn envelopes(rng: &mut StdRng) -> Result<Value, Failure> {
    let keys = [X25519Secret::generate(rng), X25519Secret::generate(rng)];
    let named = [(StoreIndex(7), keys[0].public()), (StoreIndex(21), keys[1].public())];
    let mut id = [0; 32];
    rng.fill_bytes(&mut id);
    let operation = Operation::Get { id: boxes::BoxId::from_bytes(id) };
    let (envelope, _) = seal_envelope(&operation, named, rng);
    let first = envelope.open(StoreIndex(7), &keys[0])?.seal_answer(&Answer::plain(Status::Empty), None, rng);
    let second = envelope.open(StoreIndex(21), &keys[1])?.seal_answer(&Answer::plain(Status::Empty), None, rng);
    Ok(json!({"replica_keys": [hex::encode(keys[0].to_bytes()), hex::encode(keys[1].to_bytes())],
        "indices": [7, 21], "get": hex::encode(id), "envelope": hex::encode(envelope.as_bytes()),
        "reply": hex::encode(pack_reply(&first.full, &second.short))}))
}

/// Two documents of one authority and a gateway, one epoch apart, and what leads from one to the other.
fn documents(rng: &mut StdRng) -> Result<Value, Failure> {
    let authority = AuthoritySecret::generate(rng);
    let parameters = Parameters::test_network();
    let gateway = IdentityKey::generate(rng).identity();
    let mut keys: Vec<_> = (4..7).map(|epoch| (Epoch(epoch), X25519Secret::generate(rng).public())).collect();
    let schedule = Schedule::new(UnixMillis(1_750_000_000_000), &parameters);
    let mut document = Consensus {
        height: 5,
        previous: Hash::from_bytes([2; 32]),
        authorities: vec![authority.public().clone()],
        addresses: vec![AuthorityAddress { authority: 0, address: ([192, 0, 2, 9], 9_001).into() }],
        suspects: vec![Suspect {
            identity: IdentityKey::from_seed(&[7; 32]).identity(),
            strikes: 3,
            before: Share { losing: 3, of: 4 },
            behind: Share { losing: 300, of: 301 },
            demoted_until: Some(Epoch(76)),
        }],
        nodes: vec![NodeEntry {
            identity: gateway,
            role: Role::Gateway,
            layer: None,
            family: *gateway.as_bytes(),
            addresses: vec![([192, 0, 2, 1], 4_433).into()],
            store_index: None,
            mix_keys: keys.clone(),
            envelope_keys: Vec::new(),
            since: Epoch(1),
            standby: false,
        }],
        next_store_index: 3,
        randomness: [6; 32],
        lists: vec![ListHash { authority: 0, hash: Hash::from_bytes([7; 32]) }],
        ..Consensus::blank(Hash::from_bytes([1; 32]), Epoch(4), schedule.start(Epoch(4)), parameters)
    };
    let certified = |document: &Consensus| {
        let parsed = UnverifiedConsensus::parse(&certify(document, 0, &[(0, &authority)]))?;
        parsed.dangerously_trust_own_copy(&document.network)
    };
    let old = certified(&document)?;
    keys.remove(0);
    keys.push((Epoch(7), X25519Secret::generate(rng).public()));
    document.height = 6;
    document.epoch = Epoch(5);
    document.previous = old.hash();
    document.valid_from = schedule.start(Epoch(5));
    document.valid_until = schedule.start(Epoch(8));
    document.nodes[0].mix_keys = keys;
    document.lists[0].hash = Hash::from_bytes([8; 32]);
    let new = certified(&document)?;
    let step = difference(&old, &new).ok_or("no difference")?;
    Ok(json!({"set": hex::encode(set_hash(&old.authorities).as_bytes()), "old": hex::encode(old.bytes()),
        "new": hex::encode(new.bytes()), "difference": hex::encode(step),
        "old_hash": hex::encode(old.hash().as_bytes()), "new_hash": hex::encode(new.hash().as_bytes())}))
}

fn safety_number() -> Value {
    let (seeds, network) = ([[5; 32], [6; 32]], Hash::from_bytes([9; 32]));
    let [one, other] = seeds.map(|seed| InboxKey::from_seed(&seed).public());
    let number = SafetyNumber::of(&one, &other, &network);
    let addresses = [one, other].map(|inbox| Address::new(inbox).to_string());
    json!({"inbox_seeds": seeds.map(hex::encode), "network": hex::encode(network.as_bytes()), "addresses": addresses,
        "number": hex::encode(number.as_bytes()), "digits": number.digits(), "words": number.words(),
        "code": number.code()})
}

fn main() -> Result<(), Failure> {
    let mut rng = StdRng::seed_from_u64(20_261_123);
    let golden = json!({"packets": packets(&mut rng)?, "boxes": all_boxes(&mut rng)?,
        "envelopes": envelopes(&mut rng)?, "documents": documents(&mut rng)?, "safety_number": safety_number()});
    println!("{}", serde_json::to_string_pretty(&golden)?);
    Ok(())
}
