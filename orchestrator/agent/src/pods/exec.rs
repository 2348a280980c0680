//! Short commands in a container, for probes and hooks: exit code and the beginning of what they write.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use nix::sys::signal::Signal;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use waggle_runtime::Client;
use waggle_runtime::spec::ExecSpec;

use crate::containers::Containers;
use crate::probe::Asker;

/// Output that is kept, bytes.
const OUTPUT: usize = 10 << 10;

/// Runs probe commands in a pod's containers.
pub(crate) struct ProbeExec {
    containers: Arc<Containers>,
    uid: String,
}

impl ProbeExec {
    pub(crate) fn new(containers: Arc<Containers>, uid: &str) -> Self {
        Self {
            containers,
            uid: uid.to_owned(),
        }
    }
}

impl Asker for ProbeExec {
    fn exec(
        &self,
        container: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<(i32, String), String>> {
        let container = container.to_owned();
        async move {
            let client = self.containers.client().await;
            // A task of its own: when the probe is given up, the command still has to be ended and waited for.
            let uid = self.uid.clone();
            let run = async move { run_in(&client, &uid, &container, command, timeout).await };
            tokio::spawn(run).await.map_err(|error| error.to_string())?
        }
        .boxed()
    }
}

/// Runs `command`; it is killed after `timeout`.
pub(crate) async fn run_in(
    client: &Client,
    pod: &str,
    container: &str,
    command: Vec<String>,
    timeout: Duration,
) -> Result<(i32, String), String> {
    if command.is_empty() {
        return Err("the command is empty".to_owned());
    }
    let spec = ExecSpec {
        pod: pod.to_owned(),
        container: container.to_owned(),
        args: command,
        tty: false,
        stdin: false,
        env: Vec::new(),
        terminal_size: None,
    };
    let mut session = client.exec(spec).await.map_err(|error| error.to_string())?;
    let (stdout, stderr) = (session.stdout.take(), session.stderr.take());
    let output = async { tokio::join!(beginning(stdout), beginning(stderr)) };
    let finished = tokio::time::timeout(timeout, async {
        let (code, (out, err)) = tokio::join!(session.wait(), output);
        (code, out + &err)
    })
    .await;
    match finished {
        Ok((code, text)) => code
            .map(|code| (code, text))
            .map_err(|error| error.to_string()),
        Err(_) => {
            let killed = session.signal(Signal::SIGKILL as i32).await;
            drop(session.wait().await);
            killed.map_err(|error| error.to_string())?;
            Err(format!(
                "command did not end within {} s",
                timeout.as_secs()
            ))
        }
    }
}

async fn beginning(stream: Option<Box<dyn AsyncRead + Send + Unpin>>) -> String {
    let Some(mut stream) = stream else {
        return String::new();
    };
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        let room = OUTPUT.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..read.min(room)]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}
