//! Texts to read: the help behind F1, the status in full behind F2.

use super::bar;
use super::forms::Text;
use super::state::State;
use super::wrap::{shown, wrapped};

/// Columns of a box when there is room, its frame included.
pub(super) const BOX_COLUMNS: u16 = 74;
/// Bytes of a text; a status has hardly more than two thousand.
const SHOWN_MAX: usize = 64 << 10;

const HELP: &str = "\
WRITING
  Enter              send
  Alt+Enter, Ctrl+J  begin a new line
  Up, Down           move in the text; at its edge, scroll the messages
  Ctrl+W, Ctrl+U     delete a word; to the beginning of the line
  Ctrl+A, Ctrl+E     to the beginning, to the end of the line
  Tab, Esc           to the list

MESSAGES
  PageUp, PageDown   scroll; older messages come by themselves
  Ctrl+Home, Ctrl+End  to the oldest that are here, to the newest
  Alt+Up, Alt+Down   the conversation before, the next one

LIST
  Up, Down, Enter    choose, open
  a  add a contact          m  my address
  i  invite somebody        y  accept a request
  b  block
  n  begin a group          g  the group: members, name, leave
  s  status in full         q  leave; the daemon goes on

ANYWHERE
  F1 help      F2 status in full  F3 my address
  F4 add a contact                F5 send a file
  F6 begin a group                F7 the group
  F8 accept a request             F9 block
  F10 invite somebody
  Ctrl+X             take back what you sent last here
  Ctrl+C, Ctrl+Q     leave        Ctrl+L  draw anew
  Ctrl+R             start the daemon, when it has ended

STATES OF OWN MESSAGES
  … queued      on this disk; it leaves by itself, also later
  → sent        on its way through the mixes
  ✓ stored      two stores have it on disk
  ✓✓ delivered  the other side's client has it

THE BAR
  hiding among  as if among so many packets, at most: what is
                certain now, an upper bound
  loops         share of the test packets that came back
  queue         own messages that are not stored yet
  arrives       an estimate for a text, if they are online
  WARNING       many packets are lost, or something is wrong:
                you are asked before you send
  PAUSED        most are lost; messages wait, cover goes on

Nobody is told that you write, read or are here: only
clients' receipts, once you have accepted somebody.
Times are UTC. What you write is kept in memory until it is
sent, and nothing that you see is written to disk.";

/// A text in lines, as wide as a box, and how many of them a box has room for.
pub(super) struct Page {
    pub(super) lines: Vec<String>,
    pub(super) fits: usize,
}

impl Page {
    /// The last line that can stand at the top.
    pub(super) fn top_max(&self) -> usize {
        self.lines.len().saturating_sub(self.fits)
    }
}

impl State {
    pub(super) fn page(&self, what: Text) -> Page {
        let text = match (what, &self.status) {
            (Text::Help, _) => HELP.to_owned(),
            (Text::Status, Some(status)) => crate::status::human(status, false),
            (Text::Status, None) => bar::caution(self).unwrap_or_else(|| "no status yet".to_owned()),
        };
        let (columns, rows) = self.areas().map_or((0, 0), |areas| (areas.body.width, areas.body.height));
        let inner = usize::from(BOX_COLUMNS.min(columns).saturating_sub(4));
        Page { lines: wrapped(&shown(&text, SHOWN_MAX).0, inner), fits: usize::from(rows.saturating_sub(2)) }
    }
}
