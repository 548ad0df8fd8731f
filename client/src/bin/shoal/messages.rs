//! Sending and reading.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use shoal_client::io::{
    Call, Caller, CallerError, Condition, EventLine, Exit, Failure, MessageLine, Page, PageEntry, Parts, PathLine,
    SentLine, Status, WaitsFor,
};
use shoal_client::mail::MessageState;
use shoal_protocol::duration;
use tokio::time::{Instant, sleep, timeout_at};

use crate::args::{Patience, Wait};
use crate::daemon::{reach, reach_again};
use crate::group_news::GroupNews;
use crate::output::{Out, Problem, plain};
use crate::time::readable;

/// Longest text that is read from standard input; the profile may allow less.
const TEXT_MAX: u64 = 8 << 20;
/// How often a message that is followed is looked at when nothing is heard of it.
const LOOK: Duration = Duration::from_millis(500);

pub(crate) async fn send(
    profile: &Path,
    to: String,
    text: String,
    patience: Patience,
    out: &Out,
) -> Result<(), Problem> {
    let text = if text == "-" { standard_input()? } else { text };
    dispatch(profile, Call::Send { to, text }, patience, out).await
}

pub(crate) async fn send_file(
    profile: &Path,
    to: String,
    path: PathBuf,
    patience: Patience,
    out: &Out,
) -> Result<(), Problem> {
    // the daemon has another working folder
    let absolute = std::path::absolute(&path)
        .map_err(|error| Failure::new(Exit::Usage, "file", format!("{}: {error}", path.display()), "check the path"))?;
    dispatch(profile, Call::SendFile { to, path: absolute }, patience, out).await
}

pub(crate) fn standard_input() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let failed = |message: String, exit| Failure::new(exit, "standard_input", message, "check what is piped in");
    std::io::stdin()
        .lock()
        .take(TEXT_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(format!("standard input: {error}"), Exit::Io))?;
    if bytes.len() as u64 > TEXT_MAX {
        return Err(failed(format!("a text has at most {TEXT_MAX} bytes"), Exit::Usage));
    }
    String::from_utf8(bytes).map_err(|_| {
        let next = "send it as a file: shoal send-file TO PATH";
        Failure::new(Exit::Usage, "not_utf8", "standard input is not UTF-8 text", next)
    })
}

async fn dispatch(profile: &Path, call: Call, patience: Patience, out: &Out) -> Result<(), Problem> {
    let mut caller = reach(profile, out).await?;
    if patience.wait.is_some() {
        // before the message exists, so that none of its steps is missed
        let _: Value = caller.call(Call::Subscribe).await?;
    }
    let begun = Instant::now();
    let spinner = out.spinner("waiting until the invite is used");
    let mut sent: SentLine = loop {
        match caller.call(call.clone()).await {
            // who uses an invite is a contact some seconds later
            Err(CallerError::Refused(failure))
                if failure.code == "invited" && patience.wait.is_some() && begun.elapsed() < patience.timeout =>
            {
                sleep(LOOK).await;
            }
            sent => break sent.map_err(perhaps_queued)?,
        }
    };
    spinner.finish_and_clear();
    if let Some(wait) = patience.wait {
        let patience = Patience { timeout: patience.timeout.saturating_sub(begun.elapsed()), ..patience };
        sent = follow(&mut caller, sent, wait, patience, out).await?;
    }
    out.either(&sent, || format!("{}  {}", word(sent.state), sent.id))
}

/// Follows an own message until it is where it should be.
async fn follow(
    caller: &mut Caller,
    mut sent: SentLine,
    wait: Wait,
    patience: Patience,
    out: &Out,
) -> Result<SentLine, Problem> {
    let deadline = Instant::now() + patience.timeout;
    // with its id: whoever ends this command early can still ask for it
    let shown = |sent: &SentLine| format!("{} {}", word(sent.state), sent.id);
    let mut line = out.spinner(&shown(&sent));
    while sent.state < wait.state() {
        match timeout_at(deadline.min(Instant::now() + LOOK), caller.event()).await {
            Ok(event) => match event.map_err(|error| no_more_news(error, &sent))? {
                EventLine::State(line) if line.id == sent.id => sent = line,
                EventLine::Missed(_) => sent = state_of(caller, &sent).await?,
                EventLine::Warning { message, .. } if !out.json => {
                    line.suspend(|| tracing::warn!("{}", plain(&message)));
                }
                EventLine::State(_)
                | EventLine::Message(_)
                | EventLine::Contact(_)
                | EventLine::Group(_)
                | EventLine::Warning { .. } => {}
            },
            Err(_) if Instant::now() >= deadline => return Err(too_late(caller, sent, patience).await),
            Err(_) => {
                sent = state_of(caller, &sent).await?;
                if let Some(Parts { written, all }) = sent.parts {
                    if line.length().is_none() {
                        line.finish_and_clear();
                        line = out.bar(&shown(&sent), all);
                    }
                    line.set_position(written);
                }
            }
        }
        line.set_message(shown(&sent));
    }
    line.finish_and_clear();
    if sent.state == MessageState::Cancelled {
        let failure = Failure::new(Exit::Temporary, "cancelled", "it was taken back", "send it again if you want to");
        return Err(Problem::after(failure, sent));
    }
    // what it waited for on the way says nothing about where it is now
    Ok(SentLine { waits_for: None, parts: None, ..sent })
}

async fn state_of(caller: &mut Caller, sent: &SentLine) -> Result<SentLine, Problem> {
    caller.call(Call::State { id: sent.id.clone() }).await.map_err(|error| no_more_news(error, sent))
}

/// The daemon was lost while it took the message: nobody here knows whether it is in the queue.
fn perhaps_queued(error: CallerError) -> Problem {
    match error {
        CallerError::Broken(_) => {
            let next = "it may be queued already: look at the queue of shoal status before you send it again";
            Failure::new(Exit::Unreachable, "daemon_gone", error.to_string(), next).into()
        }
        CallerError::Refused(_) | CallerError::Version(_) => error.into(),
    }
}

/// The daemon was lost, or is of no use, while the message was followed: it is in the profile.
fn no_more_news(error: CallerError, sent: &SentLine) -> Problem {
    let next = "nothing is lost, do not send it again: the daemon goes on with it when it runs (shoal status)";
    let failure = Failure::new(Exit::Unreachable, "daemon_gone", error.to_string(), next);
    Problem::after(failure, sent.clone())
}

/// Whether the network is out of reach or only slow decides about the exit code; the message stays queued either way.
async fn too_late(caller: &mut Caller, sent: SentLine, patience: Patience) -> Problem {
    let sent = state_of(caller, &sent).await.unwrap_or(sent);
    let status = caller.call::<Status>(Call::Status).await.ok();
    Problem::after(late(&sent, status.as_ref(), patience.timeout), sent)
}

/// What a message still waits for when the time is up, and what to do: never to send it again.
fn late(sent: &SentLine, status: Option<&Status>, waited: Duration) -> Failure {
    let (waited, word) = (duration::short(waited), word(sent.state));
    if let Some(status) = status.filter(|status| !status.connected) {
        let trouble = status.trouble.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        let message = format!("no connection to the network{trouble}; after {waited} the message is {word}");
        let next = format!("{}. Do not send the message again: it leaves by itself", status.next);
        return Failure::new(Exit::Unreachable, "network_unreachable", message, next);
    }
    let (why, next) = match sent.waits_for {
        Some(WaitsFor::Card) => (
            "the other side's card is not found: they have not run shoal on this network yet",
            "ask them to run shoal once (shoal up), and compare the address; the message leaves by itself then",
        ),
        Some(WaitsFor::Turn) => match status.map(|status| status.state) {
            Some(Condition::Stopped | Condition::Offline | Condition::Pause) => {
                ("sending has stopped", "see shoal status; the message leaves by itself when it is over")
            }
            Some(Condition::Warn | Condition::Starting | Condition::Good) | None => {
                ("other packets go first", "the daemon goes on with it: see the queue of shoal status")
            }
        },
        Some(WaitsFor::Stores) => {
            ("not both stores have confirmed it", "the daemon goes on asking them; see shoal status, or wait longer")
        }
        Some(WaitsFor::Reader) => (
            "two stores have it, and not everybody whom it is for has confirmed it: their shoal does not run, or they have \
             not accepted you yet",
            "nothing is left to do here; ask them to run shoal, and to accept you or add your address",
        ),
        Some(WaitsFor::Member) => (
            "you were away for longer than stores keep what the conversation needs, and no member has added you again yet",
            "the client of a member does it by itself when it sees that you are back; keep the daemon running",
        ),
        None => ("nobody says why", "see shoal status"),
    };
    let message = format!("after {waited} the message is {word}: {why}");
    let back = match sent.parts.is_some() || sent.state == MessageState::Queued {
        true => format!(" (to take it back: shoal cancel {})", sent.id),
        false => String::new(),
    };
    let next = format!("{next}. Do not send it again; it is {}{back}", sent.id);
    Failure::new(Exit::Temporary, "timeout", message, next)
}

fn word(state: MessageState) -> &'static str {
    match state {
        MessageState::Queued => "queued",
        MessageState::Sent => "sent",
        MessageState::Stored => "stored",
        MessageState::Delivered => "delivered",
        MessageState::Cancelled => "cancelled",
    }
}

pub(crate) async fn cancel(profile: &Path, id: String, out: &Out) -> Result<(), Problem> {
    let sent: SentLine = reach(profile, out).await?.call(Call::Cancel { id }).await?;
    out.either(&sent, || format!("{} is taken back", sent.id))
}

pub(crate) async fn read(
    profile: &Path,
    follow: bool,
    since: Option<String>,
    ids: bool,
    out: &Out,
) -> Result<(), Problem> {
    let mut caller = reach(profile, out).await?;
    let mut bookmark = Bookmark { since, after: None, groups: None };
    loop {
        match show(&mut caller, &mut bookmark, follow, ids, out).await {
            Err(Stop::Gone(_)) if follow => {
                tracing::warn!("the daemon has stopped: what comes is shown here when it runs again (shoal up)");
                caller = reach_again(profile).await?;
                tracing::warn!("the daemon runs again");
            }
            Err(Stop::Gone(error)) => return Err(error.into()),
            Err(Stop::Failed(problem)) => return Err(problem),
            Ok(()) => return Ok(()),
        }
    }
}

/// Where reading goes on.
struct Bookmark {
    /// The moment that the user asked for, until the first page has come.
    since: Option<String>,
    after: Option<u64>,
    /// The groups as they were when they were looked at last.
    groups: Option<GroupNews>,
}

/// Why nothing more is shown.
enum Stop {
    /// The daemon has ended.
    Gone(CallerError),
    Failed(Problem),
}

impl From<CallerError> for Stop {
    fn from(error: CallerError) -> Self {
        match error {
            CallerError::Broken(_) => Self::Gone(error),
            CallerError::Refused(_) | CallerError::Version(_) => Self::Failed(error.into()),
        }
    }
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem)
    }
}

/// Prints what is there, and with `follow` what comes, until the daemon ends.
async fn show(caller: &mut Caller, bookmark: &mut Bookmark, follow: bool, ids: bool, out: &Out) -> Result<(), Stop> {
    if follow {
        // before the first look, so that nothing falls between look and wait
        let _: Value = caller.call(Call::Subscribe).await?;
    }
    if let (Some(cursor), None) = (bookmark.after, &bookmark.since) {
        // the daemon that was told is gone, and may have gone before it heard
        let _: Value = caller.call(Call::ReadDone { cursor }).await?;
    }
    if follow && !out.json {
        let again = bookmark.groups.is_some();
        for news in bookmark.groups.get_or_insert_default().look(caller).await?.iter().filter(|_| again) {
            out.text(&format!("-- {news}"))?;
        }
    }
    loop {
        let since = bookmark.since.clone().filter(|_| bookmark.after.is_none());
        let Page { mut entries } = caller.call(Call::Read { since, after: bookmark.after }).await?;
        for PageEntry { cursor, message } in &mut entries {
            lay_out(caller, message).await?;
            out.either(message, || if ids { format!("{}  {}", message.id, human(message)) } else { human(message) })?;
            bookmark.after = Some(*cursor);
        }
        if entries.is_empty() {
            if !follow {
                return Ok(());
            }
            wait_for_message(caller, bookmark.groups.as_mut(), out).await?;
            continue;
        }
        out.flush()?;
        if let (Some(cursor), None) = (bookmark.after, &bookmark.since) {
            // only now has the reader seen them
            let _: Value = caller.call(Call::ReadDone { cursor }).await?;
        }
    }
}

/// Has the daemon lay out a copy of a file that is sealed at rest.
async fn lay_out(caller: &mut Caller, message: &mut MessageLine) -> Result<(), Stop> {
    let Some(file) = message.file.as_mut().filter(|file| !file.path.exists()) else { return Ok(()) };
    match caller.call::<PathLine>(Call::OpenFile { id: message.id.clone() }).await {
        Ok(line) => file.path = line.path,
        // one file that is lost does not hide the messages after it
        Err(CallerError::Refused(failure)) => tracing::warn!("{}: {}", plain(&file.name), plain(&failure.message)),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Says meanwhile what else is new.
async fn wait_for_message(caller: &mut Caller, mut groups: Option<&mut GroupNews>, out: &Out) -> Result<(), Stop> {
    loop {
        match caller.event().await? {
            EventLine::Message(_) | EventLine::Missed(_) => return Ok(()),
            EventLine::Warning { message, .. } if !out.json => tracing::warn!("{}", plain(&message)),
            EventLine::Group(group) => {
                for news in groups.iter_mut().flat_map(|groups| groups.take(group.clone())) {
                    out.text(&format!("-- {news}"))?;
                }
            }
            EventLine::State(_) | EventLine::Contact(_) | EventLine::Warning { .. } => {}
        }
    }
}

fn human(message: &MessageLine) -> String {
    let id = &message.conversation;
    let request =
        if message.request { format!(" (request: shoal accept {id}, or shoal block {id})") } else { String::new() };
    let file = message
        .file
        .as_ref()
        .map(|file| format!("[file {}, {} bytes: {}]", plain(&file.name), file.size, file.path.display()));
    let body: Vec<String> =
        [Some(plain(&message.text)).filter(|text| !text.is_empty()), file].into_iter().flatten().collect();
    // only the first line stands at the margin: a message cannot look like another person's line
    let body = body.join(" ").replace('\n', "\n    ");
    let line = |text: &str| plain(text).replace('\n', " ");
    let group = message.group.as_deref().map_or_else(String::new, |name| format!(" in {}", line(name)));
    format!("{}  {}{group}{request}: {body}", readable(message.sent_at), line(&message.from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_client::io::{FileLine, socket_path};

    fn queued(waits_for: Option<WaitsFor>) -> SentLine {
        SentLine { id: "7f".to_owned(), state: MessageState::Queued, waits_for, parts: None }
    }

    #[test]
    fn a_message_that_is_late_says_what_it_waits_for_and_invites_no_second_one() {
        let minute = Duration::from_secs(60);
        for (waits_for, why) in [
            (WaitsFor::Card, "card is not found"),
            (WaitsFor::Turn, "go first"),
            (WaitsFor::Stores, "stores"),
            (WaitsFor::Reader, "accepted"),
        ] {
            let failure = late(&queued(Some(waits_for)), None, minute);
            assert_eq!((failure.code.as_str(), failure.exit), ("timeout", Some(Exit::Temporary)));
            assert!(failure.message.contains(why) && failure.message.contains("after 1m"), "{}", failure.message);
            assert!(failure.next.contains("Do not send it again"), "{}", failure.next);
        }
    }

    #[tokio::test]
    async fn a_daemon_that_dies_while_a_message_is_followed_invites_no_second_one() {
        let dir = tempfile::tempdir().unwrap();
        let listener = tokio::net::UnixListener::bind(socket_path(dir.path())).unwrap();
        let mut caller = Caller::connect(dir.path()).unwrap();
        drop(listener.accept().await.unwrap());
        let sent = queued(None);
        let patience = Patience { wait: Some(Wait::Delivered), timeout: Duration::from_secs(60) };
        let problem = follow(&mut caller, sent, Wait::Delivered, patience, &Out::new(true)).await.unwrap_err();
        let said = problem.to_json();
        assert_eq!((&said["id"], &said["state"]), (&"7f".into(), &"queued".into()));
        assert!(said["error"]["next"].as_str().is_some_and(|next| next.contains("do not send it again")), "{said}");
    }

    #[test]
    fn messages_for_people() {
        let mut message = MessageLine {
            id: "00".into(),
            from: "ann".into(),
            conversation: "00".into(),
            group: None,
            text: "hi\u{1b}[2J".into(),
            file: None,
            sent_at: 1_750_000_000_000,
            received_at: 0,
            request: false,
        };
        assert_eq!(human(&message), "2025-06-15 15:06:40Z  ann: hi\u{fffd}[2J");
        message.file = Some(FileLine { name: "a.png".into(), size: 3, path: "/f/a.png".into() });
        message.text = String::new();
        message.request = true;
        let text = human(&message);
        assert!(
            text.ends_with("ann (request: shoal accept 00, or shoal block 00): [file a.png, 3 bytes: /f/a.png]"),
            "{text}"
        );
    }
}
