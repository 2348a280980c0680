//! `waggle exec`: a command in a running container, over a WebSocket (`v5.channel.k8s.io`). With -it the terminal is raw
//! and its size follows; the command's exit code becomes ours.

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use futures::SinkExt;
use futures::channel::mpsc;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, AttachedProcess, TerminalSize};
use nix::sys::termios::{self, SetArg, Termios};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use crate::connect::{Api, Globals};
use crate::logs::{default_container, pod_of};

/// Arguments of `exec`.
#[derive(Debug, clap::Args)]
pub struct ExecArgs {
    /// POD, or TYPE/NAME such as deploy/user-center
    what: String,
    /// Container
    #[arg(short, long)]
    container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Standard input is a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// Command and its arguments, after `--`
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Size of the buffers between us and the WebSocket, bytes.
const BUFFER: usize = 64 * 1024;

/// Runs it; the answer is the command's exit code.
pub(crate) async fn run(args: ExecArgs, globals: &Globals) -> Result<ExitCode> {
    let api = Api::connect(globals).await?;
    let pod = pod_of(&api, &args.what).await?;
    let name = pod["metadata"]["name"]
        .as_str()
        .ok_or_else(|| anyhow!("the server sent a pod without a name"))?;
    let container = match &args.container {
        Some(container) => Some(container.clone()),
        None => default_container(&pod),
    };
    let terminal = nix::unistd::isatty(std::io::stdin()).unwrap_or(false);
    if args.tty && !terminal {
        eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    let tty = args.tty && terminal;
    let params = AttachParams {
        container,
        stdin: args.stdin,
        stdout: true,
        stderr: !tty,
        tty,
        max_stdin_buf_size: Some(BUFFER),
        max_stdout_buf_size: Some(BUFFER),
        max_stderr_buf_size: Some(BUFFER),
    };
    let pods: kube::Api<Pod> = kube::Api::namespaced(api.client(), &api.namespace);
    let process = pods
        .exec(name, args.command.clone(), &params)
        .await
        .map_err(|error| api.explain(error))?;
    let raw = if tty {
        Some(RawTerminal::enter()?)
    } else {
        None
    };
    let status = attend(process, tty).await;
    drop(raw);
    match status? {
        Some(status) => exit_code(&status, name),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Moves bytes both ways until the command has ended, or until nobody reads what it prints: then there is no status, as
/// with `waggle exec POD -- yes | head`.
async fn attend(mut process: AttachedProcess, tty: bool) -> Result<Option<Value>> {
    let status = process
        .take_status()
        .ok_or_else(|| anyhow!("exec without a status"))?;
    let sizes = process.terminal_size().filter(|_| tty);
    let input = process
        .stdin()
        .map(|writer| tokio::spawn(send_input(writer)));
    let resizing = sizes.map(|sender| tokio::spawn(send_sizes(sender)));
    let stdout = copy(process.stdout(), tokio::io::stdout());
    let stderr = copy(process.stderr(), tokio::io::stderr());
    let ended = until_end(status, stdout, stderr).await;
    for task in [input, resizing].into_iter().flatten() {
        task.abort();
    }
    let status = match ended {
        Ok(status) => status,
        Err(error) => {
            process.abort();
            if error.kind() == std::io::ErrorKind::BrokenPipe {
                return Ok(None);
            }
            return Err(error).context("cannot write what the command printed");
        }
    };
    let status = match status {
        Some(status) => status,
        None => {
            process
                .join()
                .await
                .context("the connection to the command broke")?;
            bail!("the connection ended before the command's exit code came");
        }
    };
    Ok(Some(serde_json::to_value(status)?))
}

/// Waits for the command's status and the end of its output. An output that cannot be written ends the wait at once: as
/// nobody drains it any more, the status behind it would never come.
/// Without a status the connection has broken: its streams then have no end that could be waited for.
async fn until_end<T>(
    status: impl Future<Output = Option<T>>,
    stdout: impl Future<Output = std::io::Result<()>>,
    stderr: impl Future<Output = std::io::Result<()>>,
) -> std::io::Result<Option<T>> {
    let output = async { tokio::try_join!(stdout, stderr) };
    tokio::pin!(status, output);
    tokio::select! {
        status = &mut status => {
            if status.is_some() {
                output.await?;
            }
            Ok(status)
        }
        written = &mut output => {
            written?;
            Ok(status.await)
        }
    }
}

async fn copy(
    reader: Option<impl AsyncRead + Unpin>,
    mut writer: impl AsyncWrite + Unpin,
) -> std::io::Result<()> {
    let Some(mut reader) = reader else {
        return Ok(());
    };
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = reader.read(&mut buffer).await?;
        if read == 0 {
            return writer.flush().await;
        }
        writer.write_all(&buffer[..read]).await?;
        writer.flush().await?;
    }
}

/// Dropping the writer at the end tells the command that its input has ended.
async fn send_input(mut writer: impl AsyncWrite + Unpin) {
    if let Err(error) = copy(Some(tokio::io::stdin()), &mut writer).await {
        tracing::debug!(%error, "standard input ended early");
    }
    let _ended = writer.shutdown().await;
}

async fn send_sizes(mut sender: mpsc::Sender<TerminalSize>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else {
        return;
    };
    loop {
        if let Some((terminal_size::Width(width), terminal_size::Height(height))) =
            terminal_size::terminal_size()
            && sender.send(TerminalSize { width, height }).await.is_err()
        {
            return;
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// The terminal without line editing, echo and signals, until this is dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Result<Self> {
        let before =
            termios::tcgetattr(std::io::stdin()).context("cannot read the terminal's settings")?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw)
            .context("cannot make the terminal raw")?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Err(error) = termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0) {
            eprintln!("error: cannot restore the terminal: {error}; `reset` mends it");
        }
    }
}

/// Reads a command's end from its Status: success, an `ExitCode` cause, or a failure to run it at all.
fn exit_code(status: &Value, pod: &str) -> Result<ExitCode> {
    if status["status"] == "Success" {
        return Ok(ExitCode::SUCCESS);
    }
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    let code = causes
        .filter(|cause| cause["reason"] == "ExitCode")
        .find_map(|cause| cause["message"].as_str()?.parse::<i32>().ok());
    match code {
        Some(code) => {
            let code = u8::try_from(code.rem_euclid(256)).unwrap_or(1);
            eprintln!("command terminated with exit code {code}");
            Ok(ExitCode::from(code))
        }
        None => bail!(
            "cannot run the command in {pod}: {}",
            status["message"].as_str().unwrap_or("no reason was given")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Duration;

    #[tokio::test]
    async fn a_closed_output_ends_the_wait_for_a_command_that_still_prints() {
        // As between the WebSocket and us: a dropped reader does not wake this pipe's writer.
        let (ours, mut command) = tokio::io::simplex(16);
        let (closed, reader) = tokio::io::duplex(16);
        drop(reader);
        // The status follows only what has been printed in full.
        let status = async move {
            for _ in 0..1000 {
                command.write_all(&[b'x'; 16]).await.unwrap();
            }
            Some(())
        };
        let stderr = copy(None::<tokio::io::Empty>, tokio::io::sink());
        let wait = until_end(status, copy(Some(ours), closed), stderr);
        let ended = tokio::time::timeout(Duration::from_secs(10), wait)
            .await
            .unwrap();
        assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_broken_connection_ends_the_wait_for_output_that_has_no_end() {
        // Nobody writes to this pipe any more, and nobody says so.
        let (ours, _silent) = tokio::io::simplex(16);
        let status = async { None::<()> };
        let stderr = copy(None::<tokio::io::Empty>, tokio::io::sink());
        let wait = until_end(status, copy(Some(ours), tokio::io::sink()), stderr);
        let ended = tokio::time::timeout(Duration::from_secs(10), wait).await;
        assert!(ended.unwrap().unwrap().is_none());
    }

    #[tokio::test]
    async fn all_output_is_written_before_the_end() {
        let (ours, mut command) = tokio::io::simplex(16);
        let status = async move {
            command.write_all(&[b'x'; 100]).await.unwrap();
            command.shutdown().await.unwrap();
            Some(7)
        };
        let mut written = Vec::new();
        let stderr = copy(None::<tokio::io::Empty>, tokio::io::sink());
        let ended = until_end(status, copy(Some(ours), &mut written), stderr).await;
        assert_eq!(ended.unwrap(), Some(7));
        assert_eq!(written, [b'x'; 100]);
    }

    #[test]
    fn the_exit_code_comes_from_the_status() {
        let code = |status: Value| {
            exit_code(&status, "p")
                .map(|code| format!("{code:?}"))
                .map_err(|e| e.to_string())
        };
        assert_eq!(
            code(json!({"status": "Success"})),
            Ok(format!("{:?}", ExitCode::SUCCESS))
        );
        let ended = json!({"status": "Failure", "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": "137"}]}});
        assert_eq!(code(ended), Ok(format!("{:?}", ExitCode::from(137))));
        let failed = json!({"status": "Failure", "message": "no such file"});
        assert_eq!(
            code(failed),
            Err("cannot run the command in p: no such file".to_owned())
        );
    }
}
