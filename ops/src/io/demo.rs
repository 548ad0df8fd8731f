//! The demonstration: a whole network, two people, a conversation, and what everybody could see of it.
#![expect(clippy::disallowed_methods, reason = "IO shell: the file that is sent is random")]

use std::{
    fs,
    io::{IsTerminal as _, Write as _},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, bail};
use rand::Rng as _;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use super::{
    build,
    clock::Stopwatch,
    conversation::Hall,
    directory::Directory,
    observe, parties,
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
    transcript::{self, Style, Transcript},
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
        () = stop.wait() => Err(stopped().into()),
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

    hall.read_back(&mut messages, &content).await?;
    let seen = hall.seen().await?;
    figures(board, progress).await;
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

/// Looks through everything that the nodes keep and log for what only Alice and Bob may know.
fn search(people: &[Person; 2], dir: &Path, content: &[u8]) -> transcript::Search {
    let mut needles: Vec<(&str, &[u8])> = CONVERSATION.iter().map(|(_, text)| ("a text", text.as_bytes())).collect();
    needles.push(("the file", content.get(..64).unwrap_or_default()));
    needles.extend(people.iter().map(|person| ("an address", person.address.as_bytes())));
    observe::search(&[&dir.join("net")], &needles)
}
