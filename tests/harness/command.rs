//! Programs that tests start: to their end with a time limit, or beside the test.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What a program printed and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output of a success.
    ///
    /// # Errors
    /// The exit code was not 0; shows both outputs.
    pub fn ok(self) -> Result<String> {
        if self.code == 0 {
            return Ok(self.stdout);
        }
        bail!(
            "{} ended with {}\n{}\n{}",
            self.command,
            self.code,
            self.stdout.trim_end(),
            self.stderr.trim_end()
        )
    }

    /// Both outputs of a failure.
    ///
    /// # Errors
    /// The exit code was 0.
    pub fn fault(self) -> Result<String> {
        if self.code != 0 {
            return Ok(format!("{}{}", self.stdout, self.stderr));
        }
        bail!(
            "{} was expected to fail, but printed\n{}\n{}",
            self.command,
            self.stdout,
            self.stderr
        )
    }
}

/// Runs it to its end, at most `limit`; then it is killed and that is an error.
///
/// # Errors
/// It can't be started or doesn't end in time.
pub fn run(command: &mut Command, limit: Duration) -> Result<Output> {
    Background::start(command)?.finish(limit)
}

/// A program that runs beside the test. Killed when dropped.
#[derive(Debug)]
pub struct Background {
    shown: String,
    child: Child,
    outputs: Option<[std::thread::JoinHandle<String>; 2]>,
}

impl Background {
    /// Starts it, with nothing to read.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        Self::fed(command, Stdio::null())
    }

    /// Starts it with an input.
    ///
    /// # Errors
    /// It can't be started.
    pub fn fed(command: &mut Command, input: impl Into<Stdio>) -> Result<Self> {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let shown = words
            .map(|word| word.to_string_lossy().into_owned())
            .collect::<Vec<_>>()
            .join(" ");
        command
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {shown}"))?;
        let outputs = [collect(child.stdout.take()), collect(child.stderr.take())];
        Ok(Self {
            shown,
            child,
            outputs: Some(outputs),
        })
    }

    /// Waits for its end, at most `limit`.
    ///
    /// # Errors
    /// It doesn't end in time; it is killed then.
    pub fn finish(mut self, limit: Duration) -> Result<Output> {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                self.child.kill()?;
                self.child.wait()?;
                let [stdout, stderr] = self.collected();
                bail!(
                    "{} did not end within {limit:?}\n{stdout}\n{stderr}",
                    self.shown
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let [stdout, stderr] = self.collected();
        Ok(Output {
            command: self.shown.clone(),
            code: status.code().unwrap_or(-1),
            stdout,
            stderr,
        })
    }

    /// Still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn collected(&mut self) -> [String; 2] {
        let outputs = self.outputs.take();
        outputs.map_or_else(Default::default, |readers| {
            readers.map(|reader| reader.join().unwrap_or_default())
        })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.is_running() {
            // Already ended between the two calls is fine too.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn collect(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What came before a read error is still worth showing.
            let _ = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
