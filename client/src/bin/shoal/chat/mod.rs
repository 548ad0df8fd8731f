//! `shoal chat`: conversations in a terminal.
//!
//! `state` is all that is shown, pure: what happened goes in, what is to be done comes out (`ask`). `news` is what the
//! daemon says, `keys` and `deeds` what the user does; `chats` is the list, `talk` the open conversation, `block` one
//! message as lines, `editor` what is being written, `forms` what is asked in the middle of the screen; `words`, `bar`
//! and `wrap` say it. `layout` says where things stand and `draw` puts them there. What acts is here (the loop), in `link`
//! (the daemon) and in `terminal`. Nothing is written to disk.

mod ask;
mod bar;
mod block;
mod chats;
mod deeds;
mod draw;
mod editor;
mod forms;
mod help;
mod keys;
mod layout;
mod link;
mod news;
#[cfg(test)]
mod samples;
mod state;
#[cfg(test)]
mod state_tests;
mod talk;
#[cfg(test)]
mod talk_tests;
mod terminal;
mod words;
mod wrap;

use std::io;
use std::path::Path;
use std::time::Duration;

use crossterm::event::{Event, EventStream};
use futures_util::StreamExt as _;
use shoal_client::io::{Caller, Exit, Failure};
use shoal_client::profile::{KeyFile, Protection};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::daemon::reach;
use crate::output::{Out, Problem};
use ask::{Input, Order};
use link::{Errand, QUEUE};
use state::State;
use terminal::Screen;

const TICK: Duration = Duration::from_secs(1);
/// News that are taken in before the screen is drawn again: a burst is drawn once.
const BURST: usize = 256;

/// Why the loop went on.
enum Woke {
    Input(Input),
    Leave,
}

pub(crate) async fn chat(profile: &Path, out: &Out) -> Result<(), Problem> {
    if out.json || !terminal::is_there() {
        let next = "programs use shoal read --follow --json and shoal send, or the socket";
        return Err(Failure::new(Exit::Usage, "no_terminal", "shoal chat is for people at a terminal", next).into());
    }
    if !profile.is_dir() {
        return Err(shoal_client::mail::MailError::Missing(profile.to_owned()).into());
    }
    if KeyFile::read(profile)?.protection() == Protection::Passphrase {
        // asked for before the screen is taken, if no daemon runs
        let _: Caller = reach(profile, out).await?;
    }
    // texts are in this memory
    shoal_protocol::memory::refuse_dumps();
    let broken =
        |error: io::Error| Failure::new(Exit::Io, "terminal", format!("the terminal: {error}"), "try another one");
    let mut screen = Screen::take().map_err(broken)?;
    converse(profile, &mut screen).await.map_err(broken)?;
    Ok(())
}

async fn converse(profile: &Path, screen: &mut Screen) -> io::Result<()> {
    let (errands, errands_of_link) = mpsc::channel(QUEUE);
    let (news_of_link, mut news) = mpsc::channel(QUEUE);
    let link = tokio::spawn(link::run(profile.to_owned(), errands_of_link, news_of_link));
    let mut keys = EventStream::new();
    let mut signals = [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()].map(signal);
    let [Ok(terminate), Ok(hangup), Ok(interrupt)] = &mut signals else {
        return Err(io::Error::other("signals cannot be caught"));
    };
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut state = State::new(screen.size()?);
    // the order in which the state wants things done; the link takes them when it can
    let mut waiting = std::collections::VecDeque::new();
    loop {
        let size = screen.size()?;
        if size != state.size {
            // the event of a new size may come later than the size
            waiting.extend(state.take(Input::Size(size.0, size.1)).into_iter().filter_map(errand));
        }
        screen.draw(&state)?;
        let woke = tokio::select! {
            biased;
            _ = terminate.recv() => Woke::Leave,
            _ = hangup.recv() => Woke::Leave,
            _ = interrupt.recv() => Woke::Leave,
            event = keys.next() => match event {
                Some(event) => match key(event?) {
                    Some(input) => Woke::Input(input),
                    None => continue,
                },
                None => Woke::Leave,
            },
            place = errands.reserve(), if !waiting.is_empty() => match (place, waiting.pop_front()) {
                (Ok(place), Some(errand)) => {
                    place.send(errand);
                    continue;
                }
                _ => Woke::Leave,
            },
            input = news.recv() => match input {
                Some(input) => Woke::Input(input),
                None => return Err(io::Error::other("the connection to the daemon has failed")),
            },
            _ = ticks.tick() => Woke::Input(Input::Tick),
        };
        let Woke::Input(input) = woke else { break };
        let mut orders = state.take(input);
        for _ in 0..BURST {
            let Ok(input) = news.try_recv() else { break };
            orders.extend(state.take(input));
        }
        if orders.contains(&Order::Quit) {
            break;
        }
        if orders.contains(&Order::Redraw) {
            screen.forget()?;
        }
        waiting.extend(orders.into_iter().filter_map(errand));
    }
    link.abort();
    Ok(())
}

/// What of an order is the link's business.
fn errand(order: Order) -> Option<Errand> {
    match order {
        Order::Ask(ask) => Some(Errand::Ask(ask)),
        Order::Start => Some(Errand::Start),
        Order::Redraw | Order::Quit => None,
    }
}

/// What a terminal's event is to the state; `None`: nothing.
fn key(event: Event) -> Option<Input> {
    match event {
        Event::Key(key) => Some(Input::Key(key)),
        Event::Paste(text) => Some(Input::Paste(text)),
        Event::Resize(columns, rows) => Some(Input::Size(columns, rows)),
        Event::FocusGained | Event::FocusLost | Event::Mouse(_) => None,
    }
}
