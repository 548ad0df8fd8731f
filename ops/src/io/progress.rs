//! Progress on standard error: lines that move on a terminal, plain lines elsewhere.

use std::{io::IsTerminal as _, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

use super::clock::Stopwatch;

/// How often a moving line moves.
const TICK: Duration = Duration::from_millis(120);

/// Tells a person what is going on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    terminal: bool,
}

impl Progress {
    /// Looks whether a person watches.
    pub(crate) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal() }
    }

    /// A line on its own.
    pub(crate) fn say(self, text: &str) {
        eprintln!("{text}");
    }

    /// Begins a step of `total` parts (zero: unknown).
    pub(crate) fn step(self, name: &str, total: u64) -> Step {
        let bar = if !self.terminal {
            ProgressBar::hidden()
        } else if total == 0 {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::new(total)
        };
        let template = match total {
            0 => "  {spinner:.cyan} {msg}",
            _ => "  {spinner:.cyan} {msg:<34} {bar:24.cyan/dim} {pos}/{len}",
        };
        // both templates are literals; if one were wrong the default style would show
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━━─"));
        }
        bar.set_message(name.to_owned());
        bar.enable_steady_tick(TICK);
        Step { bar, name: name.to_owned(), watch: Stopwatch::start(), terminal: self.terminal, ended: false }
    }
}

/// A step under way. Dropped without [`Step::done`], its line goes.
#[derive(Debug)]
pub(crate) struct Step {
    bar: ProgressBar,
    name: String,
    watch: Stopwatch,
    terminal: bool,
    ended: bool,
}

impl Step {
    /// So many parts are done.
    pub(crate) fn at(&self, parts: usize) {
        self.bar.set_position(parts as u64);
    }

    /// Shows what is being done now.
    pub(crate) fn detail(&self, text: &str) {
        self.bar.set_message(text.to_owned());
    }

    /// The step has worked.
    pub(crate) fn done(mut self, result: &str) {
        self.ended = true;
        self.bar.finish_and_clear();
        let seconds = self.watch.elapsed().as_secs_f64();
        if self.terminal {
            eprintln!("  \u{1b}[32m✓\u{1b}[0m {:<34} \u{1b}[2m{result} ({seconds:.1} s)\u{1b}[0m", self.name);
        } else {
            eprintln!("  ✓ {:<34} {result} ({seconds:.1} s)", self.name);
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.ended {
            self.bar.finish_and_clear();
        }
    }
}
