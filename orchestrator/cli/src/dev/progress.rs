//! Progress lines of `dev up` and `dev down`: what was done, how it went, how long it took.

use std::io::{IsTerminal, Write as _};
use std::time::Instant;

/// Prints one line a step.
#[derive(Debug)]
pub(crate) struct Progress {
    quiet: bool,
    colour: bool,
    step: Instant,
}

impl Progress {
    /// Starts counting. `quiet` prints nothing.
    pub(crate) fn start(quiet: bool) -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self {
            quiet,
            colour,
            step: Instant::now(),
        }
    }

    /// A step is done.
    pub(crate) fn done(&mut self, what: &str, detail: &str) {
        let seconds = self.step.elapsed().as_secs_f64();
        self.step = Instant::now();
        if self.quiet {
            return;
        }
        let mark = if self.colour {
            "\x1b[32m✓\x1b[0m"
        } else {
            "✓"
        };
        println!(" {mark} {what:<10} {detail:<60} {seconds:>5.1} s");
        // A closed stdout is no reason to leave a cluster half made.
        let _closed = std::io::stdout().flush();
    }

    /// A line without a mark.
    pub(crate) fn say(&self, text: &str) {
        if !self.quiet {
            println!("{text}");
        }
    }
}
