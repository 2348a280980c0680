//! Logs, exec, port-forward, the flow log and metrics: the server asks, the agent opens a stream of its own and serves it there.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::PodStatus;
use nix::sched::{CloneFlags, setns};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Channel;
use waggle_runtime::logs::{LogQuery, read};
use waggle_runtime::spec::ExecSpec;
use waggle_runtime::{FaultKind, RuntimeError};
use waggle_wire::v1;
use waggle_wire::v1::open_stream::Request;
use waggle_wire::v1::stream_frame::Frame;

use crate::flows::Following;
use crate::metrics;
use crate::node::Node;
use crate::pods::observed::last_ended;
use crate::pods::table::Table;

/// Frames on their way up.
const QUEUE: usize = 32;
/// How long the server may take to hang up after the end of a stream.
const FAREWELL: Duration = Duration::from_secs(5);
/// Bytes in one frame.
const CHUNK: usize = 32 << 10;

/// The way up of one stream.
pub(crate) type Up = mpsc::Sender<v1::StreamFrame>;

/// What a user should read, and what kind of failure it is.
struct Fault {
    reason: &'static str,
    text: String,
}

impl Fault {
    fn not_found(text: impl Into<String>) -> Self {
        Self {
            reason: "NotFound",
            text: text.into(),
        }
    }
    fn bad(text: impl Into<String>) -> Self {
        Self {
            reason: "BadRequest",
            text: text.into(),
        }
    }
    fn internal(text: impl std::fmt::Display) -> Self {
        Self {
            reason: "InternalError",
            text: text.to_string(),
        }
    }
}

impl From<RuntimeError> for Fault {
    fn from(error: RuntimeError) -> Self {
        match error.kind() {
            Some(FaultKind::NotFound) => Self::not_found(error.to_string()),
            Some(FaultKind::Invalid | FaultKind::InvalidState) => Self::bad(error.to_string()),
            _ => Self::internal(error),
        }
    }
}

/// Serves `request` in the background.
pub(crate) fn open(node: &Arc<Node>, table: &Table, channel: Channel, request: v1::OpenStream) {
    let server = Server {
        node: Arc::clone(node),
        table: table.clone(),
    };
    tokio::spawn(async move {
        let (up, frames) = mpsc::channel(QUEUE);
        drop(up.send(frame(Frame::Stream(request.stream.clone()))).await);
        let mut client = v1::node_client::NodeClient::new(channel);
        let mut down = match client.stream(ReceiverStream::new(frames)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                return tracing::warn!(
                    stream = request.stream,
                    status = status.message(),
                    "stream refused"
                );
            }
        };
        let served = match request.request {
            Some(Request::Logs(request)) => server.logs(request, &up, &mut down).await,
            Some(Request::Exec(request)) => server.exec(request, &up, &mut down).await,
            Some(Request::Attach(request)) => server.attach(request, &up, &mut down).await,
            Some(Request::PortForward(request)) => {
                server.port_forward(request, &up, &mut down).await
            }
            Some(Request::Flows(request)) => {
                let _following = Following::begin(&server.node, &request);
                let hung_up = async { while let Ok(Some(_)) = down.message().await {} };
                tokio::select! {
                    () = server.node.flows.tell(request, &up) => {}
                    () = hung_up => {}
                }
                Ok(0)
            }
            Some(Request::Metrics(_)) => {
                let metrics = metrics::gather(&server.node, &server.table).await;
                drop(
                    up.send(frame(Frame::Stdout(metrics.encode_to_vec().into())))
                        .await,
                );
                Ok(0)
            }
            None => Err(Fault::bad(
                "the agent of this node does not know this kind of stream",
            )),
        };
        let end = match served {
            Ok(exit_code) => v1::StreamEnd {
                exit_code,
                ..Default::default()
            },
            Err(fault) => v1::StreamEnd {
                exit_code: 0,
                fault: fault.text,
                reason: fault.reason.to_owned(),
            },
        };
        drop(up.send(frame(Frame::End(end))).await);
        drop(up);
        // Letting go of the answer would reset the stream, and with it what has not been sent yet.
        let read = async { while let Ok(Some(_)) = down.message().await {} };
        drop(tokio::time::timeout(FAREWELL, read).await);
    });
}

pub(crate) fn frame(frame: Frame) -> v1::StreamFrame {
    v1::StreamFrame { frame: Some(frame) }
}

struct Server {
    node: Arc<Node>,
    table: Table,
}

impl Server {
    async fn logs(
        &self,
        request: v1::LogsRequest,
        up: &Up,
        down: &mut Streaming<v1::StreamFrame>,
    ) -> Result<i32, Fault> {
        let pod = request.pod.clone().unwrap_or_default();
        let name = &request.container;
        let state = self.table.container(&pod.uid, name);
        let state = state.ok_or_else(|| self.not_running(&pod, name, "is waiting to start"))?;
        let attempt = match (request.previous, last_ended(&state)) {
            (false, _) => state.spec.attempt,
            (true, Some(last)) => last.attempt,
            (true, None) => {
                let text = format!(
                    "previous terminated container {name:?} in pod {:?} not found",
                    pod.name
                );
                return Err(Fault::bad(text));
            }
        };
        let since = (request.since_seconds > 0)
            .then(|| {
                jiff::Timestamp::from_second(crate::clock::seconds() - request.since_seconds).ok()
            })
            .flatten();
        let query = LogQuery {
            tail: u64::try_from(request.tail_lines).ok(),
            since,
            timestamps: request.timestamps,
            follow: request.follow && !request.previous,
            limit_bytes: u64::try_from(request.limit_bytes)
                .ok()
                .filter(|limit| *limit > 0),
        };
        let ended = CancellationToken::new();
        let mut lines = read(
            self.node.folder.log(&pod.uid, name, attempt),
            query,
            ended.clone(),
        );
        let watched = self.table.until_ended(&pod.uid, name, attempt);
        tokio::pin!(watched);
        let mut over = false;
        loop {
            tokio::select! {
                line = lines.next() => match line {
                    Some(Ok(bytes)) => {
                        if up.send(frame(Frame::Stdout(bytes))).await.is_err() {
                            return Ok(0);
                        }
                    }
                    Some(Err(error)) => return Err(Fault::internal(format!("log of {name}: {error}"))),
                    None => return Ok(0),
                },
                () = &mut watched, if !over => {
                    over = true;
                    ended.cancel();
                }
                heard = down.message() => if !matches!(heard, Ok(Some(_))) {
                    return Ok(0);
                },
            }
        }
    }

    async fn exec(
        &self,
        request: v1::ExecRequest,
        up: &Up,
        down: &mut Streaming<v1::StreamFrame>,
    ) -> Result<i32, Fault> {
        let pod = request.pod.unwrap_or_default();
        if request.command.is_empty() {
            return Err(Fault::bad("no command was given"));
        }
        let name = request.container;
        let spec = ExecSpec {
            pod: pod.uid.clone(),
            container: name.clone(),
            args: request.command,
            tty: request.tty,
            stdin: request.stdin,
            env: if request.tty {
                vec!["TERM=xterm".to_owned()]
            } else {
                Vec::new()
            },
            terminal_size: None,
        };
        let client = self.node.containers.client().await;
        let begun = client.exec(spec).await;
        let mut session = begun.map_err(|error| self.unless_running(&pod, &name, error))?;
        let (stdin, stdout, stderr) = (
            session.stdin.take(),
            session.stdout.take(),
            session.stderr.take(),
        );
        let terminal = session.terminal.clone();
        let input = feed(down, stdin, terminal);
        let output = async {
            tokio::join!(
                copy(
                    stdout.filter(|_| request.stdout || request.tty),
                    up,
                    Frame::Stdout
                ),
                copy(stderr.filter(|_| request.stderr), up, Frame::Stderr),
            )
        };
        let code = tokio::select! {
            (_, code) = async { tokio::join!(output, session.wait()) } => Some(code),
            () = input => None,
        };
        match code {
            Some(code) => Ok(code?),
            None => {
                // The client went away: so does its command.
                session
                    .signal(nix::sys::signal::Signal::SIGKILL as i32)
                    .await?;
                Ok(session.wait().await?)
            }
        }
    }

    async fn attach(
        &self,
        request: v1::AttachRequest,
        up: &Up,
        down: &mut Streaming<v1::StreamFrame>,
    ) -> Result<i32, Fault> {
        let pod = request.pod.unwrap_or_default();
        let client = self.node.containers.client().await;
        let name = &request.container;
        let attached = client.attach(&pod.uid, name).await;
        let attached = attached.map_err(|error| self.unless_running(&pod, name, error))?;
        let terminal = attached.terminal;
        let tty = terminal.is_some();
        // A terminal that nobody writes to is still open for its size.
        let input = feed(down, attached.stdin.filter(|_| request.stdin), terminal);
        let stream = |pipe, wanted: bool| -> Option<Box<dyn AsyncRead + Send + Unpin>> {
            wanted.then(|| Box::new(pipe) as Box<_>)
        };
        let stdout = stream(attached.stdout, request.stdout || tty);
        let stderr = stream(attached.stderr, request.stderr && !tty);
        let output = async {
            tokio::join!(
                copy(stdout, up, Frame::Stdout),
                copy(stderr, up, Frame::Stderr),
            );
            if !request.stdout && !request.stderr && !tty {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = output => {}
            () = input => {}
        }
        Ok(0)
    }

    /// A failure about a container: when it does not run, why.
    fn unless_running(&self, pod: &v1::PodRef, name: &str, error: RuntimeError) -> Fault {
        match error.kind() {
            Some(FaultKind::NotFound | FaultKind::InvalidState) => {
                self.not_running(pod, name, "is not running")
            }
            _ => error.into(),
        }
    }

    /// What a container does instead of running, as its pod's status has it.
    fn not_running(&self, pod: &v1::PodRef, name: &str, what: &str) -> Fault {
        let status = self.node.outbox.status_of(&pod.uid);
        let status = status.and_then(|json| serde_json::from_slice(&json).ok());
        let why = status.and_then(|status| state_of(&status, name));
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        Fault::bad(format!(
            "container {name:?} in pod {:?} {what}{why}",
            pod.name
        ))
    }

    async fn port_forward(
        &self,
        request: v1::PortForwardRequest,
        up: &Up,
        down: &mut Streaming<v1::StreamFrame>,
    ) -> Result<i32, Fault> {
        let pod = request.pod.unwrap_or_default();
        let port = u16::try_from(request.port)
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| Fault::bad(format!("{} is no port", request.port)))?;
        let desired = self.table.desired(&pod.uid).ok_or_else(|| {
            Fault::not_found(format!(
                "pod {}/{} is not on this node",
                pod.namespace, pod.name
            ))
        })?;
        let netns = if desired.host_network() {
            None
        } else {
            let netns = self.table.netns(&pod.uid).await;
            Some(netns.ok_or_else(|| Fault::bad(format!("pod {} does not run", desired.key)))?)
        };
        let stream = dial(netns, port).await.map_err(|error| {
            Fault::bad(format!(
                "nothing answers on port {port} of pod {}: {error}",
                desired.key
            ))
        })?;
        let (reader, mut writer) = stream.into_split();
        let input = async {
            while let Ok(Some(message)) = down.message().await {
                match message.frame {
                    Some(Frame::Stdin(bytes)) => {
                        let written = writer.write_all(&bytes).await;
                        if written.is_err() {
                            break;
                        }
                    }
                    Some(Frame::StdinClosed(_)) => drop(writer.shutdown().await),
                    _ => {}
                }
            }
        };
        let reader: Box<dyn AsyncRead + Send + Unpin> = Box::new(reader);
        tokio::select! {
            () = copy(Some(reader), up, Frame::Stdout) => {}
            () = input => {}
        }
        Ok(0)
    }
}

/// A container's state where it doesn't run, and the field that has it.
fn state_of(status: &PodStatus, name: &str) -> Option<String> {
    let lists = [
        ("containerStatuses", &status.container_statuses),
        ("initContainerStatuses", &status.init_container_statuses),
        (
            "ephemeralContainerStatuses",
            &status.ephemeral_container_statuses,
        ),
    ];
    let (field, one) = lists.into_iter().find_map(|(list, statuses)| {
        let statuses = statuses.as_deref().unwrap_or_default();
        let index = statuses.iter().position(|one| one.name == name)?;
        Some((format!("status.{list}[{index}].state"), &statuses[index]))
    })?;
    let state = one.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or("waiting");
        let message = waiting.message.as_deref();
        let message = message.map_or_else(String::new, |text| format!(": {text}"));
        return Some(format!("{reason}{message} ({field}.waiting)"));
    }
    let ended = state.terminated.as_ref()?;
    let reason = ended.reason.as_deref().unwrap_or("terminated");
    Some(format!(
        "{reason}, exit code {} ({field}.terminated)",
        ended.exit_code
    ))
}

/// Copies until the end of `stream` or of the reader's interest.
async fn copy(
    stream: Option<Box<dyn AsyncRead + Send + Unpin>>,
    up: &Up,
    wrap: impl Fn(bytes::Bytes) -> Frame,
) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; CHUNK];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        let bytes = bytes::Bytes::copy_from_slice(&buffer[..read]);
        if up.send(frame(wrap(bytes))).await.is_err() {
            return;
        }
    }
}

/// Feeds a command's stdin and terminal size from the server's frames; completes when the server hangs up.
async fn feed(
    down: &mut Streaming<v1::StreamFrame>,
    mut stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    terminal: Option<waggle_runtime::client::Terminal>,
) {
    while let Ok(Some(message)) = down.message().await {
        match message.frame {
            Some(Frame::Stdin(bytes)) => {
                if let Some(pipe) = &mut stdin
                    && (pipe.write_all(&bytes).await.is_err() || pipe.flush().await.is_err())
                {
                    stdin = None;
                }
            }
            Some(Frame::StdinClosed(_)) => stdin = None,
            Some(Frame::Resize(size)) => {
                let fit = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
                if let Some(terminal) = &terminal
                    && let Err(error) = terminal.resize(fit(size.width), fit(size.height))
                {
                    tracing::debug!(%error, "a terminal can't be resized");
                }
            }
            _ => {}
        }
    }
}

/// Connects to a port on the loopback address of a network namespace, or of the node's own.
async fn dial(netns: Option<PathBuf>, port: u16) -> std::io::Result<TcpStream> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // A thread of its own: it never comes back from the namespace.
    std::thread::Builder::new()
        .name("port-forward".into())
        .spawn(move || {
            let connected = (|| {
                if let Some(path) = netns {
                    setns(std::fs::File::open(path)?, CloneFlags::CLONE_NEWNET)?;
                }
                let v4 = std::net::TcpStream::connect(("127.0.0.1", port));
                let stream = v4.or_else(|error| {
                    std::net::TcpStream::connect(("::1", port)).map_err(|_| error)
                })?;
                stream.set_nonblocking(true)?;
                Ok(stream)
            })();
            drop(sender.send(connected));
        })?;
    let connected = receiver.await.map_err(std::io::Error::other)?;
    connected.and_then(TcpStream::from_std)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_does_not_run_says_why_and_where() {
        let status = serde_json::json!({
            "containerStatuses": [
                {"name": "a", "state": {"running": {}}},
                {"name": "b", "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}},
            ],
            "initContainerStatuses": [
                {"name": "i", "state": {"terminated": {"exitCode": 3, "reason": "Error"}}},
            ],
        });
        let status: PodStatus = serde_json::from_value(status).unwrap();
        let of = |name| state_of(&status, name);
        assert_eq!(
            of("b").unwrap(),
            "CrashLoopBackOff: back-off 10s (status.containerStatuses[1].state.waiting)"
        );
        assert_eq!(
            of("i").unwrap(),
            "Error, exit code 3 (status.initContainerStatuses[0].state.terminated)"
        );
        assert_eq!((of("a"), of("x")), (None, None));
    }
}
