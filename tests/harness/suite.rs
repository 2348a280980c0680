//! Tests that run in order over one fixture, reported like any other Rust tests, with the fixture always torn down.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use libtest_mimic::{Arguments, Failed, Trial};

/// Named tests over a shared `T`.
pub struct Suite<T> {
    fixture: Arc<T>,
    trials: Vec<Trial>,
}

impl<T: Send + Sync + 'static> Suite<T> {
    /// A suite over `fixture`.
    pub fn new(fixture: T) -> Self {
        Self {
            fixture: Arc::new(fixture),
            trials: Vec::new(),
        }
    }

    /// Adds a test; they run in the order in which they are added.
    #[must_use]
    pub fn test(mut self, name: &str, body: fn(&T) -> Result<()>) -> Self {
        let fixture = self.fixture.clone();
        let trial = Trial::test(name, move || {
            body(&fixture).map_err(|error| Failed::from(format!("{error:#}")))
        });
        self.trials.push(trial);
        self
    }

    /// Runs them one after the other, then drops the fixture.
    pub fn run(self) -> ExitCode {
        let arguments = Arguments {
            test_threads: Some(1),
            ..Arguments::from_args()
        };
        let conclusion = libtest_mimic::run(&arguments, self.trials);
        drop(self.fixture);
        conclusion.exit_code()
    }
}

/// Asks again until `condition` gives a value or `limit` is over; then its last error is the error.
///
/// # Errors
/// The last error of `condition`.
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("not within {limit:?}: {what}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// A claim with its evidence.
///
/// # Errors
/// The claim does not hold.
pub fn require(holds: bool, evidence: impl std::fmt::Display) -> Result<()> {
    if holds { Ok(()) } else { bail!("{evidence}") }
}
