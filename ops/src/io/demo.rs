//! The demonstration: a whole network, two people, a conversation, and what everybody could see of it.
#![expect(clippy::disallowed_methods, reason = "IO shell: the file that is sent is random")]

use std::{
    collections::BTreeSet,
    fs,
    io::{IsTerminal as _, Write as _},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, bail};
use rand::Rng as _;
use shoal_protocol::address::Address;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use super::{
    build,
    clock::Stopwatch,
    conversation::Hall,
    directory::Directory,
    observe::{self, Needle, Seen},
    parties,
    person::Person,
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
    transcript::{self, Message, Style, Transcript},
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

/// How much longer than an epoch the gateways' figures are waited for.
const FIGURES_PATIENCE: Duration = Duration::from_secs(10);
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
        () = stop.wait() => {
            // the daemons of both people have ended with the conversation; nobody looks for faults in what is left
            testnet.stop().await;
            bail!(stopped());
        }
    };
    let result = match result {
        Ok(Shown { ended: Some(ended), .. }) => ended,
        Ok(Shown { delivered, mut tasks, people, .. }) => {
            if !options.once {
                progress.say(&stays_up(&dir)?);
                tokio::select! {
                    () = stop.wait() => {}
                    () = testnet.look_after() => {}
                    _ = tasks.join_next() => {}
                }
            }
            for person in people {
                person.stop().await;
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

/// What one can do while everything stays up.
fn stays_up(dir: &Path) -> anyhow::Result<String> {
    let shoal = parties::binary("shoal")?;
    let (shoal, dir) = (shoal.display(), dir.display());
    Ok(format!(
        "\nThe network and the status page stay up until Ctrl-C. Alice and Bob listen:\n  \
         {shoal} --profile {dir}/alice send Bob 'One more' --wait delivered\n  \
         {shoal} --profile {dir}/bob read"
    ))
}

fn stopped() -> Failure {
    Failure::new(ExitKind::Interrupted, "interrupted before the end; everything was stopped", "start it again")
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
    people: Vec<Person>,
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

    let (delivered, people) = tokio::select! {
        talked = talk(options, testnet.network_path(), dir, &board, &url, progress) => talked?,
        Some(ended) = tasks.join_next() => {
            let ended = ended.context("a part of the demonstration was cut short").and_then(|ended| ended);
            return Ok(Shown { delivered: false, people: Vec::new(), tasks, ended: Some(ended) });
        }
    };
    Ok(Shown { delivered, people, tasks, ended: None })
}

/// Two people talk. Returns whether everything was delivered and read back, and the people, whose daemons go on.
async fn talk(
    options: &DemoOptions,
    network: &Path,
    dir: &Path,
    board: &Board,
    url: &str,
    progress: Progress,
) -> anyhow::Result<(bool, Vec<Person>)> {
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
    let mut hall = Hall::new([alice, bob], watch, heard, progress);
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

    let conversations = hall.read_back(&mut messages, &content).await?;
    let seen = hall.seen().await?;
    figures(board, progress).await;
    let sights = observe::sights(board, &seen);
    let addresses = hall.people.each_ref().map(|person| person.address.as_str());
    let needles = needles(&addresses, &messages, &conversations, &seen, &content)?;
    let search = observe::search(&[&dir.join("net")], &needles);
    let delivered = search.found.is_empty()
        && search.skipped == 0
        && messages.iter().all(|message| message.delivered() && message.read_back);
    print(&transcript::sights(&sights, &search, style));
    print(&transcript::conclusion(&messages, delivered, style));
    if options.json {
        let transcript = Transcript { delivered, status: url.to_owned(), messages, sights, search };
        // a closed standard output does not make the messages undelivered
        let _ = writeln!(std::io::stdout(), "{}", serde_json::to_string(&transcript)?);
    }
    Ok((delivered, hall.people.into()))
}

/// Waits until the gateways have told the figures of an epoch: they tell them when it is over.
async fn figures(board: &Board, progress: Progress) {
    let step = progress.step("figures of the first epoch", 0);
    let told = async {
        while board.view().certificate.is_none_or(|certificate| certificate.epoch == 0) {
            tokio::time::sleep(WATCH_PERIOD).await;
        }
        // once more, so that what is shown was asked for after the epoch's end
        tokio::time::sleep(WATCH_PERIOD * 2).await;
    };
    let limit = Duration::from_millis(board.view().epoch_ms) + FIGURES_PATIENCE;
    match timeout(limit, told).await {
        Ok(()) => step.done("told when it is over"),
        // then they are shown as not told
        Err(_) => drop(step),
    }
}

/// What only Alice and Bob may know, and no node may keep or log.
fn needles(
    addresses: &[&str],
    messages: &[Message],
    conversations: &BTreeSet<String>,
    seen: &[Seen],
    content: &[u8],
) -> anyhow::Result<Vec<Needle>> {
    let mut needles: Vec<Needle> = CONVERSATION.iter().map(|(_, text)| Needle::text("a text", text)).collect();
    needles.push(Needle { name: "the file", bytes: content.get(..64).unwrap_or_default().to_vec() });
    for address in addresses {
        needles.push(Needle::text("an address", address));
        let parsed: Address = address.parse().context("shoal printed an address that is none")?;
        needles.extend(Needle::bytes("an inbox key", parsed.inbox().as_bytes()));
    }
    needles.extend(messages.iter().flat_map(|message| Needle::id("a message id", &message.id)));
    needles.extend(conversations.iter().flat_map(|id| Needle::id("a conversation id", id)));
    // a gateway sees where packets come from, and must forget it
    let places = seen.iter().flat_map(|person| &person.addresses);
    needles.extend(places.map(|place| Needle::text("where a person connects from", place)));
    Ok(needles)
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};
    use shoal_protocol::inbox::InboxKey;

    use super::*;

    #[test]
    fn whatever_a_node_kept_of_them_is_found() {
        let inbox = InboxKey::generate(&mut StdRng::seed_from_u64(1)).public();
        let address = Address::new(inbox).to_string();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let (message_id, conversation_id) = ([0xa7; 16], [0xb8; 16]);
        let message = Message {
            id: hex(&message_id),
            from: "Alice".into(),
            to: "Bob".into(),
            text: "hello".into(),
            written_at_ms: 0,
            states: Vec::new(),
            shown_after_ms: None,
            read_back: false,
        };
        let seen = Seen { name: "Alice", gateway: String::new(), addresses: vec!["127.0.0.1:41201".into()] };
        let conversations = BTreeSet::from([hex(&conversation_id)]);
        let content: Vec<u8> = (0..=255).collect();
        let needles = needles(&[&address], &[message], &conversations, &[seen], &content).expect("an address");

        let planted: [(&str, Vec<u8>); 11] = [
            ("a text", CONVERSATION[3].1.into()),
            ("the file", content[..64].into()),
            ("an address", address.clone().into()),
            ("an inbox key", inbox.as_bytes().to_vec()),
            ("an inbox key", hex(inbox.as_bytes()).into()),
            ("a message id", message_id.to_vec()),
            ("a message id", hex(&message_id).into()),
            ("a message id", hex(&message_id).to_uppercase().into()),
            ("a conversation id", conversation_id.to_vec()),
            ("a conversation id", hex(&conversation_id).into()),
            ("where a person connects from", b"peer=127.0.0.1:41201 up".to_vec()),
        ];
        for (name, bytes) in planted {
            let dir = tempfile::tempdir().expect("a temporary directory");
            assert!(observe::search(&[dir.path()], &needles).found.is_empty());
            fs::write(dir.path().join("node.log"), [b"before ", &bytes[..], b" after"].concat())
                .expect("can be written");
            let search = observe::search(&[dir.path()], &needles);
            assert_eq!(search.found.len(), 1, "{name}: {:?}", search.found);
            assert!(search.found[0].starts_with(name), "{name}: {:?}", search.found);
        }
    }
}
