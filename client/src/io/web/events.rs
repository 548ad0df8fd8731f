//! What happens, as a stream of server-sent events. A page reads it with `fetch`, because only that can show a session.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, Sse};
use futures_util::stream::{Stream, unfold};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Interval, interval};

use super::gate::bearer;
use super::house::House;
use super::refusal::Refusal;
use crate::io::lines::EventLine;

/// A comment is sent this often: connections on which nothing happens for 30 s are closed. It also keeps the session.
const BEAT: Duration = Duration::from_secs(10);

struct Listening {
    house: Arc<House>,
    session: String,
    events: broadcast::Receiver<crate::mail::Event>,
    stop: watch::Receiver<bool>,
    beat: Interval,
    _place: OwnedSemaphorePermit,
}

/// Events from now on.
pub(super) async fn events(
    State(house): State<Arc<House>>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let Ok(place) = Arc::clone(&house.streams).try_acquire_owned() else {
        let next = "close other tabs of this page";
        return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too_many_streams", "too many pages listen", next));
    };
    let listening = Listening {
        session: bearer(&headers).unwrap_or_default().to_owned(),
        events: house.daemon()?.subscribe(),
        stop: house.stop.clone(),
        beat: interval(BEAT),
        house,
        _place: place,
    };
    Ok(Sse::new(unfold(listening, next)))
}

async fn next(mut listening: Listening) -> Option<(Result<Event, Infallible>, Listening)> {
    let event = tokio::select! {
        event = listening.events.recv() => match event {
            Ok(event) => told(&event.into()),
            Err(RecvError::Lagged(missed)) => told(&EventLine::Missed(missed)),
            Err(RecvError::Closed) => return None,
        },
        _ = listening.beat.tick() => {
            if !listening.house.used(&listening.session) {
                return None;
            }
            Event::default().comment("")
        }
        _ = listening.stop.wait_for(|stop| *stop) => return None,
    };
    Some((Ok(event), listening))
}

/// As the socket's notifications have it in `params`.
fn told(event: &EventLine) -> Event {
    Event::default().json_data(event).unwrap_or_else(|_| Event::default().comment("not encoded"))
}
