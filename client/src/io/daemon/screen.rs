//! The calls of whoever draws a screen.

use std::fs::File;
use std::io;
use std::time::Duration;

use super::Daemon;
use crate::blobs::Manifest;
use crate::estimate::{Estimate, Load, estimate};
use crate::io::failure::Failure;
use crate::io::screen::{EstimateLine, OverviewLine, TimelinePage};
use crate::mail::{Event, ReceivedFile, TimelineMessage, TimelineSide};
use crate::polls;
use crate::records::RECORD_SIZE_MAX;
use shoal_protocol::Hash;
use tokio::sync::broadcast;

/// Entries of a page unless said otherwise: a screen or two.
const ENTRIES: u32 = 50;

impl Daemon {
    /// What happens from now on.
    pub(in crate::io) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// The own address.
    pub(in crate::io) async fn address(&self) -> Result<String, Failure> {
        self.mail(|desk| Ok(desk.mail.address())).await
    }

    /// The received file at a cursor, open; `None`: no received file stands there. One that is sealed at rest is opened
    /// as a copy.
    pub(in crate::io) async fn received_file(
        &self,
        cursor: u64,
    ) -> Result<Option<(ReceivedFile, io::Result<File>)>, Failure> {
        let open = move |desk: &mut super::Desk<'_>| {
            let Some(entry) = desk.mail.entry_at(cursor)? else { return Ok(None) };
            let TimelineMessage::Received(message) = entry.message else { return Ok(None) };
            let Some(file) = message.file else { return Ok(None) };
            let path = desk.mail.open_file(message.id)?;
            let opened = File::open(&path);
            Ok(Some((ReceivedFile { path, ..file }, opened)))
        };
        self.mail(open).await
    }

    pub(super) async fn timeline(
        &self,
        of: String,
        (before, after): (Option<u64>, Option<u64>),
        limit: Option<u32>,
    ) -> Result<TimelinePage, Failure> {
        // whoever names both wants to go forward: what lies behind is bounded by the limit all the same
        let side = after.map_or(TimelineSide::Before(before), TimelineSide::After);
        let page = move |desk: &mut super::Desk<'_>| Ok(desk.mail.timeline(&of, side, limit.unwrap_or(ENTRIES))?);
        Ok(self.mail(page).await?.into())
    }

    pub(super) async fn overview(&self) -> Result<Vec<OverviewLine>, Failure> {
        Ok(self.mail(|desk| Ok(desk.mail.overview()?)).await?.into_iter().map(OverviewLine::from).collect())
    }

    pub(super) async fn seen(&self, of: String, cursor: u64) -> Result<(), Failure> {
        self.mail(move |desk| Ok(desk.mail.set_seen(&of, cursor)?)).await
    }

    pub(super) async fn estimate(&self, of: String, bytes: Option<u64>) -> Result<EstimateLine, Failure> {
        let facts =
            move |desk: &mut super::Desk<'_>| Ok((desk.mail.active_at(&of)?, desk.mail.queue_length()?, desk.now));
        let (active_at, ahead, now) = self.mail(facts).await?;
        let (consensus, class) = {
            let snapshot = self.snapshot.borrow();
            (snapshot.consensus.clone(), snapshot.class)
        };
        let (Some(parameters), Some(active_at)) = (consensus.map(|consensus| consensus.parameters), active_at) else {
            return Ok(EstimateLine { stored_ms: None, arrives_ms: None });
        };
        let content = bytes.filter(|bytes| *bytes > RECORD_SIZE_MAX as u64);
        let boxes = 1 + content.map_or(0, |bytes| Manifest::new([0; 32], bytes, Hash::from_bytes([0; 32])).boxes());
        // what is sent now makes the conversation hot here; at the reader it is as hot as it was
        let reader = polls::class(active_at, now, &parameters);
        let Estimate { stored, arrived } = estimate(Load { boxes, ahead, reader }, class, &parameters);
        let milliseconds = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Ok(EstimateLine { stored_ms: Some(milliseconds(stored)), arrives_ms: Some(milliseconds(arrived)) })
    }
}
