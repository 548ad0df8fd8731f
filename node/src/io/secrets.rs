//! `shoal-node secrets`: what an operator can show to whoever asks for what the node knows.

use crate::io::protection::Protection;
use crate::io::status::Status;
use crate::report;
use serde_json::{Value, json};
use shoal_protocol::types::{Epoch, Role, UnixMillis};
use std::path::Path;

impl Status {
    /// `shoal-node secrets --json`: every secret held now, where it is, when it is erased, what it would tell.
    pub fn secrets(&self) -> Value {
        let keys = self.keys.borrow();
        let run = &self.runtime_dir;
        let mut secrets = vec![identity(&self.identity_file, &["memory"])];
        for (epoch, erased) in &keys.erased_at {
            let with_envelope = keys.envelope.contains_key(epoch);
            secrets.extend(of_epoch(run, *epoch, with_envelope, &["memory"], *erased, &describe(*erased)));
        }
        let per_role = match self.role {
            Role::Gateway => vec![json!({
                "secret": "sessions of connected clients", "where": ["memory"],
                "erased": "when the client's link ends; its session number some seconds later, when the allowance it may send is full again",
                "tells": "which addresses are connected now; not what they do",
            })],
            Role::Mix => vec![json!({
                "secret": "packets in the delay queue", "where": ["memory"], "erased": "within seconds, when they leave",
                "tells": "order of arrival of the packets that wait at that moment",
            })],
            Role::Store => vec![
                json!({
                    "secret": "boxes and inboxes", "where": self.moves.as_ref().map(|moves| moves.location()).unwrap_or_default(),
                    "erased": "after the retention time",
                    "tells": "random-looking ids and bodies; nothing about who wrote or reads them",
                }),
                json!({
                    "secret": "SURBs of the requests in hand", "where": ["memory"],
                    "erased": "one service time after the request came, when its reply leaves",
                    "tells": "of the requests of that moment: the first mix of each reply's way, and the means to send that one reply; not who waits for it",
                }),
                json!({
                    "secret": "envelopes being answered", "where": ["memory"],
                    "erased": "one answer time after they came, when the answer leaves",
                    "tells": "which boxes are written and read at that moment, through which courier; not by whom",
                }),
            ],
        };
        secrets.extend(per_role);
        secrets.push(json!({
            "secret": "TLS session keys of open links", "where": ["memory"],
            "erased": "when the link ends; the TLS library leaves copies of them and of the identity key where it worked, until other data takes the place",
            "tells": "packets on that link, which are themselves encrypted",
        }));
        let protection = Protection::read();
        let lacks: Vec<String> = protection.lacks().into_iter().map(|lack| lack.found).collect();
        json!({ "secrets": secrets, "memory": protection, "lacks": lacks })
    }
}

/// The identity key: in its file, and in the places `beside` it.
pub(super) fn identity(file: &Path, beside: &[&str]) -> Value {
    json!({
        "secret": "identity key",
        "where": places(file.display().to_string(), beside),
        "erased": "never, until the operator deletes it",
        "tells": "who holds it can pose as this node from now on; it opens no packet of the past",
    })
}

/// The secrets of one epoch in a runtime directory, and in the places `beside` it. `at` is when they are to be erased,
/// `erased` says so in words.
pub(super) fn of_epoch(
    run: &Path,
    epoch: Epoch,
    with_envelope: bool,
    beside: &[&str],
    at: UnixMillis,
    erased: &str,
) -> Vec<Value> {
    let entry = |secret: String, kind: &str, tells: &str| {
        let file = run.join(format!("mix-{epoch}.{kind}")).display().to_string();
        json!({
            "secret": secret, "where": places(file, beside), "erased": erased, "erased_at_ms": at.0, "tells": tells,
        })
    };
    let mut secrets = vec![entry(
        format!("mix key of epoch {epoch}"),
        "key",
        "one layer of the packets of that epoch that someone recorded on this node's links: their next hop and delay; not \
         sender, content or receiver",
    )];
    if with_envelope {
        secrets.push(entry(
            format!("tags of the envelopes of epoch {epoch}"),
            "seen",
            "how many envelopes came; with the envelope key, whether a given envelope was among them. In memory with the \
             key of the tags, which goes with them",
        ));
        secrets.push(entry(
            format!("envelope key of epoch {epoch}"),
            "key",
            "the box ids and operations in recorded envelopes of that epoch sealed to this store; bodies stay sealed",
        ));
    }
    secrets.push(entry(
        format!("replay tags of epoch {epoch}"),
        "replay",
        "how many packets came; with the mix key, whether a given packet was among them. In memory with the key of the \
         tags, which goes with them",
    ));
    secrets
}

fn places(file: String, beside: &[&str]) -> Vec<String> {
    std::iter::once(file).chain(beside.iter().map(|place| (*place).to_owned())).collect()
}

fn describe(at: UnixMillis) -> String {
    format!("at {}, when the grace time of its epoch is over", report::utc(at))
}
