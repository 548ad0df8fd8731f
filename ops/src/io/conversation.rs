//! Two people who write to each other in turn, and what is heard of their daemons meanwhile.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::bail;
use serde_json::Value;
use shoal_client::{io::EventLine, mail::MessageState};
use tokio::{sync::mpsc, time::timeout};

use super::{
    clock::Stopwatch,
    observe::{self, Seen},
    person::{Heard, Person},
    progress::Progress,
};
use crate::transcript::{Message, Reached};

/// Longest wait for one message, from its writing to its receipt.
const MESSAGE_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for a file.
const FILE_LIMIT: Duration = Duration::from_secs(180);

/// Two people and what has been heard of their daemons.
pub(crate) struct Hall {
    /// Alice and Bob.
    pub(crate) people: [Person; 2],
    watch: Stopwatch,
    heard: mpsc::Receiver<Heard>,
    log: Vec<Heard>,
    progress: Progress,
}

impl Hall {
    /// Brings two people together whose daemons tell to `heard`, with the time on `watch`.
    pub(crate) fn new(people: [Person; 2], watch: Stopwatch, heard: mpsc::Receiver<Heard>, progress: Progress) -> Self {
        Self { people, watch, heard, log: Vec::new(), progress }
    }

    fn pair(&self, from: usize) -> (&Person, &Person) {
        let [alice, bob] = &self.people;
        if from == 0 { (alice, bob) } else { (bob, alice) }
    }

    /// One of them (0 or 1) writes a text to the other; returns when it is delivered and read, or the time is up.
    pub(crate) async fn say(&mut self, from: usize, text: &str) -> anyhow::Result<Message> {
        let (writer, reader) = self.pair(from);
        let written_at = self.watch.elapsed();
        let (id, state) = writer.send(reader.name, text).await?;
        let message = begun(writer, reader, text.to_owned(), (id, state), written_at, self.watch.elapsed());
        Ok(self.follow(message, written_at, MESSAGE_LIMIT).await)
    }

    /// The same with a file.
    pub(crate) async fn send_file(&mut self, from: usize, path: &Path) -> anyhow::Result<Message> {
        let (writer, reader) = self.pair(from);
        let written_at = self.watch.elapsed();
        let sent = writer.send_file(reader.name, path).await?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let size = fs::metadata(path).map_or(0, |file| file.len());
        let text = format!("{name}, {} KiB", size / 1_024);
        let message = begun(writer, reader, text, sent, written_at, self.watch.elapsed());
        Ok(self.follow(message, written_at, FILE_LIMIT).await)
    }

    /// Listens until the message is delivered and read, or the time is up.
    async fn follow(&mut self, mut message: Message, written_at: Duration, limit: Duration) -> Message {
        let step = self.progress.step(&format!("{} → {}", message.from, message.to), 0);
        let following = async {
            loop {
                for heard in self.log.drain(..) {
                    note(&mut message, &heard, written_at);
                }
                if message.delivered() {
                    return;
                }
                let last = message.states.last().map(|reached| &*reached.state).unwrap_or_default();
                step.detail(&format!("{} → {}: {last}", message.from, message.to));
                match self.heard.recv().await {
                    Some(heard) => self.log.push(heard),
                    None => return,
                }
            }
        };
        // what is missing then is said in the message itself
        let _ = timeout(limit, following).await;
        message
    }

    /// What `read` gives at both ends must be what was written: each message once, in order, byte for byte.
    /// Returns the ids of the conversations that they were read in.
    pub(crate) async fn read_back(&self, messages: &mut [Message], content: &[u8]) -> anyhow::Result<BTreeSet<String>> {
        let mut conversations = BTreeSet::new();
        for reader in &self.people {
            let read = reader.read().await?;
            let ids = read.iter().filter_map(|line| line.get("conversation")?.as_str());
            conversations.extend(ids.map(str::to_owned));
            let sent = messages.iter_mut().filter(|message| message.to == reader.name);
            let mut lines = read.iter();
            for message in sent {
                let line = lines.next();
                message.read_back = line.is_some_and(|line| is_copy(line, message, content));
            }
            if let Some(line) = lines.next() {
                bail!("{} reads what nobody wrote: {line}", reader.name);
            }
        }
        Ok(conversations)
    }

    /// How each person looks to their gateway.
    pub(crate) async fn seen(&self) -> anyhow::Result<Vec<Seen>> {
        let mut seen = Vec::new();
        for person in &self.people {
            let status = person.status().await?;
            seen.push(Seen {
                name: person.name,
                gateway: status.get("gateway").and_then(Value::as_str).unwrap_or_default().to_owned(),
                addresses: person.pid().map(observe::udp_addresses).unwrap_or_default(),
            });
        }
        Ok(seen)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn begun(
    writer: &Person,
    reader: &Person,
    text: String,
    (id, state): (String, String),
    written_at: Duration,
    now: Duration,
) -> Message {
    Message {
        id,
        from: writer.name.to_owned(),
        to: reader.name.to_owned(),
        text,
        written_at_ms: millis(written_at),
        states: vec![Reached { state, after_ms: millis(now.saturating_sub(written_at)) }],
        shown_after_ms: None,
        read_back: false,
    }
}

/// Takes what was heard into the message, if it is about it.
fn note(message: &mut Message, heard: &Heard, written_at: Duration) {
    let after_ms = millis(heard.at.saturating_sub(written_at));
    match &heard.event {
        EventLine::State(line) if line.id == message.id && heard.person == message.from => {
            let state = match line.state {
                MessageState::Queued => "queued",
                MessageState::Sent => "sent",
                MessageState::Stored => "stored",
                MessageState::Delivered => "delivered",
                MessageState::Cancelled => "cancelled",
            };
            if !message.states.iter().any(|reached| reached.state == state) {
                message.states.push(Reached { state: state.to_owned(), after_ms });
            }
        }
        EventLine::Message(line) if line.id == message.id && heard.person == message.to => {
            message.shown_after_ms.get_or_insert(after_ms);
        }
        EventLine::State(_)
        | EventLine::Message(_)
        | EventLine::Contact(_)
        | EventLine::Group(_)
        | EventLine::Warning { .. }
        | EventLine::Missed(_) => {}
    }
}

/// Whether a line of `read --json` is this message.
fn is_copy(line: &Value, message: &Message, content: &[u8]) -> bool {
    if line.get("id").and_then(Value::as_str) != Some(&message.id) {
        return false;
    }
    match line.get("file").filter(|file| !file.is_null()) {
        Some(file) => {
            let path: Option<PathBuf> = file.get("path").and_then(Value::as_str).map(Into::into);
            path.and_then(|path| fs::read(path).ok()).is_some_and(|copy| copy == content)
        }
        None => line.get("text").and_then(Value::as_str) == Some(&message.text),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shoal_client::io::SentLine;

    use super::*;

    fn message() -> Message {
        Message {
            id: "7".into(),
            from: "Alice".into(),
            to: "Bob".into(),
            text: "hello".into(),
            written_at_ms: 1_000,
            states: Vec::new(),
            shown_after_ms: None,
            read_back: false,
        }
    }

    #[test]
    fn states_count_once_and_only_for_their_message() {
        let mut message = message();
        let state = |id: &str, state, at| Heard {
            person: "Alice",
            at: Duration::from_millis(at),
            event: EventLine::State(SentLine { id: id.into(), state, waits_for: None, parts: None }),
        };
        let written_at = Duration::from_secs(1);
        note(&mut message, &state("7", MessageState::Sent, 1_200), written_at);
        note(&mut message, &state("7", MessageState::Sent, 1_900), written_at);
        note(&mut message, &state("8", MessageState::Stored, 1_900), written_at);
        assert_eq!(message.states, [Reached { state: "sent".into(), after_ms: 200 }]);
        assert!(!message.delivered());
    }

    #[test]
    fn a_copy_is_the_same_id_and_the_same_bytes() {
        assert!(is_copy(&json!({"id": "7", "text": "hello", "file": null}), &message(), b""));
        assert!(!is_copy(&json!({"id": "7", "text": "hello ", "file": null}), &message(), b""));
        assert!(!is_copy(&json!({"id": "8", "text": "hello", "file": null}), &message(), b""));
        assert!(!is_copy(&json!({"id": "7", "text": "", "file": {"path": "/nowhere"}}), &message(), b"x"));
    }
}
