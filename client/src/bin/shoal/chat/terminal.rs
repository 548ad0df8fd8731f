//! The terminal: taken over when the screen begins, given back however it ends.

use std::io::{self, IsTerminal as _, Stdout, Write as _};

use crossterm::event::{DisableBracketedPaste, EnableBracketedPaste};
use crossterm::terminal::{
    BeginSynchronizedUpdate, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode,
};
use crossterm::{cursor, execute, queue};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

use super::draw::{Look, draw};
use super::state::State;

/// Gives the terminal back when it is dropped; a panic gives it back before it says anything.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    look: Look,
}

/// Whether there is a terminal to draw on and keys to read.
pub(super) fn is_there() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// What is on the alternate screen is gone with it: nothing of it stays in the scrollback.
fn give_back() {
    let mut out = io::stdout();
    // nothing can be done about a terminal that takes nothing any more
    let _ = execute!(out, EndSynchronizedUpdate, DisableBracketedPaste, LeaveAlternateScreen, cursor::Show);
    let _ = disable_raw_mode();
}

impl Screen {
    pub(super) fn take() -> io::Result<Self> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            give_back();
            before(info);
        }));
        enable_raw_mode()?;
        let look = Look::of(std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()));
        // from here on a failure gives back what was taken
        let screen = Terminal::new(CrosstermBackend::new(io::stdout())).map(|terminal| Self { terminal, look });
        let taken = screen.and_then(|screen| {
            execute!(io::stdout(), EnterAlternateScreen, EnableBracketedPaste)?;
            Ok(screen)
        });
        if taken.is_err() {
            give_back();
        }
        taken
    }

    pub(super) fn size(&self) -> io::Result<(u16, u16)> {
        self.terminal.size().map(|size| (size.width, size.height))
    }

    /// Only what changed is written, and shown at once: nothing flickers.
    pub(super) fn draw(&mut self, state: &State) -> io::Result<()> {
        queue!(io::stdout(), BeginSynchronizedUpdate)?;
        let look = self.look;
        self.terminal.draw(|frame| draw(frame, state, look))?;
        queue!(io::stdout(), EndSynchronizedUpdate)?;
        io::stdout().flush()
    }

    /// Forgets what is on the screen: the next drawing writes all of it.
    pub(super) fn forget(&mut self) -> io::Result<()> {
        self.terminal.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}
