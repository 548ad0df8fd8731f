//! The demonstration: a whole network, two people, a conversation, and what everybody could see of it.
#![expect(clippy::disallowed_methods, reason = "IO shell: the file that is sent is random")]

use std::{
    fs,
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rand::Rng as _;
use serde_json::Value;
use shoal_client::{io::EventLine, mail::MessageState};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use super::{
    build,
    clock::Stopwatch,
    directory::Directory,
    observe::{self, Seen},
    person::{Heard, Person},
    probe,
    progress::Progress,
    serve::Server,
    signals::Stop,
    testnet::{Testnet, WATCH_PERIOD},
    watch::Board,
};
use crate::{
    arguments::DemoOptions,
    failure::{ExitKind, Failure},
    transcript::{self, Message, Reached, Style, Transcript},
};

/// Who says what, in turn. Every text is in another script, because bytes must arrive as they left.
const CONVERSATION: [(usize, &str); 6] = [
    (0, "Hello Bob. Can anybody see that I am writing to you?"),
    (1, "Somebody sees that I am online. Nobody sees that it is you. 🐟"),
    (0, "And when I say nothing at all?"),
    (1, "It looks the same: إذا سكتَّ، يبقى كل شيء كما هو."),
    (0, "每一条鱼都一样。 Here comes a picture of it."),
    (1, "Thank you, Alice. See you in the shoal."),
];

/// Size of the file that Alice sends.
const FILE_SIZE: usize = 64 * 1024;
/// The file's name.
const FILE_NAME: &str = "shoal.bin";

/// Longest wait for one message, from its writing to its receipt.
const MESSAGE_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for the file.
const FILE_LIMIT: Duration = Duration::from_secs(180);
/// Events that may wait to be looked at. They are looked at while messages are waited for; a message has five.
const HEARD_MAX: usize = 256;

/// `shoal-ops demo`.
pub(crate) async fn command(options: &DemoOptions) -> anyhow::Result<()> {
    let mut stop = Stop::listen()?;
    let progress = Progress::new();
    tokio::select! {
        built = build::binaries(progress) => built?,
        () = stop.wait() => bail!(stopped()),
    }
    let scratch = tempfile::Builder::new().prefix("shoal-demo-").tempdir().context("no temporary directory")?;
    let dir = scratch.path().to_owned();
    let (shape, net) = (options.shape.shape(), dir.join("net"));
    let mut testnet = tokio::select! {
        started = Testnet::start(&shape, &net, progress) => match started {
            Ok(testnet) => testnet,
            Err(error) => {
                let kept = scratch.keep();
                return Err(error.context(format!("the network does not start; its logs are in {}", kept.display())));
            }
        },
        () = stop.wait() => bail!(stopped()),
    };
    let result = tokio::select! {
        result = show(options, &mut testnet, &dir, progress) => result,
        () = stop.wait() => Err(stopped().into()),
    };
    let result = match result {
        Ok(Shown { ended: Some(ended), .. }) => ended,
        Ok(Shown { delivered, mut tasks, .. }) => {
            if !options.once {
                progress.say("The status page stays up; stop with Ctrl-C.");
                tokio::select! {
                    () = stop.wait() => {}
                    () = testnet.look_after() => {}
                    _ = tasks.join_next() => {}
                }
            }
            if delivered { Ok(()) } else { Err(undelivered(&dir).into()) }
        }
        Err(error) => Err(error),
    };
    testnet.stop().await;
    if options.keep || result.is_err() {
        progress.say(&format!("everything is kept in {}", scratch.keep().display()));
    }
    result
}

fn stopped() -> Failure {
    Failure::new(ExitKind::Failed, "stopped before the end", "start it again")
}

fn undelivered(dir: &Path) -> Failure {
    Failure::new(
        ExitKind::Failed,
        "not every message was delivered both ways",
        format!("read the logs below {}", dir.display()),
    )
}

/// What is left running after the conversation.
struct Shown {
    delivered: bool,
    tasks: JoinSet<anyhow::Result<()>>,
    /// Set when one of the tasks ended by itself.
    ended: Option<anyhow::Result<()>>,
}

/// Everything between the start of the network and its end.
async fn show(options: &DemoOptions, testnet: &mut Testnet, dir: &Path, progress: Progress) -> anyhow::Result<Shown> {
    let server = Server::bind(options.status).await?;
    let url = server.url();
    let board = Board::new(testnet.network(), testnet.known());
    let mut tasks = JoinSet::new();
    tasks.spawn(board.clone().watch(Directory::open(testnet.network().clone())?, WATCH_PERIOD));
    tasks.spawn(server.run(board.clone(), WATCH_PERIOD));
    tasks.spawn(probe::probe(testnet.network().clone(), board.clone()));
    progress.say(&format!("\n  status page: {url}"));

    let delivered = tokio::select! {
        delivered = talk(options, testnet.network_path(), dir, &board, &url, progress) => delivered?,
        Some(ended) = tasks.join_next() => {
            let ended = ended.context("a part of the demonstration was cut short").and_then(|ended| ended);
            return Ok(Shown { delivered: false, tasks, ended: Some(ended) });
        }
    };
    Ok(Shown { delivered, tasks, ended: None })
}

/// Two people talk; returns whether everything was delivered and read back.
async fn talk(
    options: &DemoOptions,
    network: &Path,
    dir: &Path,
    board: &Board,
    url: &str,
    progress: Progress,
) -> anyhow::Result<bool> {
    let watch = Stopwatch::start();
    let (sender, heard) = mpsc::channel(HEARD_MAX);
    let step = progress.step("Alice and Bob make profiles", 0);
    let (alice, bob) = tokio::try_join!(
        Person::start("Alice", dir, network, watch, sender.clone()),
        Person::start("Bob", dir, network, watch, sender),
    )?;
    tokio::try_join!(alice.add("Bob", &bob.address), bob.add("Alice", &alice.address))?;
    step.done("each knows the other's address");

    let style = match std::io::stdout().is_terminal() {
        true => Style::Colour,
        false => Style::Plain,
    };
    let mut hall = Hall { people: [alice, bob], watch, heard, log: Vec::new(), progress };
    let print = |text: &str| {
        if !options.json {
            // a closed standard output does not stop the conversation
            let _ = write!(std::io::stdout(), "{text}").and_then(|()| std::io::stdout().flush());
        }
    };
    print(&style.heading("The conversation"));
    let mut messages = Vec::new();
    for (from, text) in CONVERSATION {
        let message = hall.say(from, text).await?;
        print(&message.lines(style));
        messages.push(message);
    }
    let file = dir.join(FILE_NAME);
    let mut content = vec![0; FILE_SIZE];
    rand::rng().fill_bytes(&mut content);
    fs::write(&file, &content).with_context(|| format!("cannot write {}", file.display()))?;
    let message = hall.send_file(0, &file).await?;
    print(&message.lines(style));
    messages.push(message);

    hall.read_back(&mut messages, &content).await?;
    let seen = hall.seen().await?;
    let sights = observe::sights(board, &seen);
    let search = search(&hall.people, dir, &content);
    let delivered = search.found.is_empty() && messages.iter().all(|message| message.delivered() && message.read_back);
    print(&transcript::sights(&sights, &search, style));
    print(&transcript::conclusion(&messages, delivered, style));
    if options.json {
        let transcript = Transcript { delivered, status: url.to_owned(), messages, sights, search };
        // a closed standard output does not make the messages undelivered
        let _ = writeln!(std::io::stdout(), "{}", serde_json::to_string(&transcript)?);
    }
    for person in hall.people {
        person.stop().await;
    }
    Ok(delivered)
}

/// Looks through everything that the nodes keep and log for what only Alice and Bob may know.
fn search(people: &[Person; 2], dir: &Path, content: &[u8]) -> transcript::Search {
    let mut needles: Vec<(&str, &[u8])> = CONVERSATION.iter().map(|(_, text)| ("a text", text.as_bytes())).collect();
    needles.push(("the file", content.get(..64).unwrap_or_default()));
    needles.extend(people.iter().map(|person| ("an address", person.address.as_bytes())));
    observe::search(&[&dir.join("net")], &needles)
}

/// Two people and what has been heard of their daemons.
struct Hall {
    people: [Person; 2],
    watch: Stopwatch,
    heard: mpsc::Receiver<Heard>,
    log: Vec<Heard>,
    progress: Progress,
}

impl Hall {
    fn pair(&self, from: usize) -> (&Person, &Person) {
        let [alice, bob] = &self.people;
        if from == 0 { (alice, bob) } else { (bob, alice) }
    }

    async fn say(&mut self, from: usize, text: &str) -> anyhow::Result<Message> {
        let (writer, reader) = self.pair(from);
        let written_at = self.watch.elapsed();
        let (id, state) = writer.send(reader.name, text).await?;
        let message = begun(writer, reader, text.to_owned(), (id, state), written_at, self.watch.elapsed());
        Ok(self.follow(message, written_at, MESSAGE_LIMIT).await)
    }

    async fn send_file(&mut self, from: usize, path: &Path) -> anyhow::Result<Message> {
        let (writer, reader) = self.pair(from);
        let written_at = self.watch.elapsed();
        let sent = writer.send_file(reader.name, path).await?;
        let text = format!("{FILE_NAME}, {} KiB", FILE_SIZE / 1024);
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
    async fn read_back(&self, messages: &mut [Message], content: &[u8]) -> anyhow::Result<()> {
        for reader in &self.people {
            let read = reader.read().await?;
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
        Ok(())
    }

    /// How each person looks to their gateway.
    async fn seen(&self) -> anyhow::Result<Vec<Seen>> {
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
            event: EventLine::State(SentLine { id: id.into(), state }),
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
