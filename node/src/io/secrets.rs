//! `shoal-node secrets`: what an operator can show to whoever asks for what the node knows.

use crate::io::protection::Protection;
use crate::io::status::Status;
use crate::report;
use serde_json::{Value, json};
use shoal_protocol::types::{Role, UnixMillis};

impl Status {
    /// `shoal-node secrets --json`: every secret held now, where it is, when it is erased, what it would tell.
    pub fn secrets(&self) -> Value {
        let keys = self.keys.borrow();
        let run = &self.runtime_dir;
        let mut secrets = vec![json!({
            "secret": "identity key",
            "where": [self.identity_file.display().to_string(), "memory"],
            "erased": "never, until the operator deletes it",
            "tells": "who holds it can pose as this node from now on; it opens no packet of the past",
        })];
        for (epoch, erased) in &keys.erased_at {
            let at = describe(*erased);
            let file = run.join(format!("mix-{epoch}.key")).display().to_string();
            secrets.push(json!({
                "secret": format!("mix key of epoch {epoch}"),
                "where": [file, "memory"],
                "erased": at, "erased_at_ms": erased.0,
                "tells": "one layer of the packets of that epoch that someone recorded on this node's links: their next hop and delay; not sender, content or receiver",
            }));
            if keys.envelope.contains_key(epoch) {
                secrets.push(json!({
                    "secret": format!("tags of the envelopes of epoch {epoch}"),
                    "where": [run.join(format!("mix-{epoch}.seen")).display().to_string(), "memory"],
                    "erased": at, "erased_at_ms": erased.0,
                    "tells": "how many envelopes came; with the envelope key, whether a given envelope was among them. In memory with the key of the tags, which goes with them",
                }));
                secrets.push(json!({
                    "secret": format!("envelope key of epoch {epoch}"),
                    "where": [run.join(format!("mix-{epoch}.key")).display().to_string(), "memory"],
                    "erased": at, "erased_at_ms": erased.0,
                    "tells": "the box ids and operations in recorded envelopes of that epoch sealed to this store; bodies stay sealed",
                }));
            }
            secrets.push(json!({
                "secret": format!("replay tags of epoch {epoch}"),
                "where": [run.join(format!("mix-{epoch}.replay")).display().to_string(), "memory"],
                "erased": at, "erased_at_ms": erased.0,
                "tells": "how many packets came; with the mix key, whether a given packet was among them. In memory with the key of the tags, which goes with them",
            }));
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

fn describe(at: UnixMillis) -> String {
    format!("at {}, when the grace time of its epoch is over", report::utc(at))
}
