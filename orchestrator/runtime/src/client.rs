//! The agent's side of the supervisor's socket, for tokio. Bulk data of an exec goes through descriptors of its own.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};

use futures::Stream;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::cgroup::{self, Cgroups};
use crate::error::{Result, RuntimeError};
use crate::frame::{Incoming, Outgoing};
use crate::protocol::{Answer, Body, Call, Request, SOCKET};
use crate::spec::{
    ContainerKey, ContainerSpec, ContainerState, ExecSpec, ResourceSpec, Sandbox, SandboxSpec,
    Usage,
};

mod attach;
mod exec;
mod revival;

pub use attach::Attachment;
pub use exec::{ExecSession, Terminal};
pub use revival::Revival;

/// One connection to the supervisor; clones share it. Every call may run beside others.
///
/// When the supervisor goes away each call ends with [`RuntimeError::Disconnected`]: call
/// [`ensure_running`](crate::supervisor::ensure_running), connect anew and list.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    cgroup: Mutex<Option<String>>,
    /// The host's hierarchies. Finding them reads the table of mounts, to which every pod of the host adds.
    hierarchies: OnceLock<Cgroups>,
    shared: Arc<Shared>,
    writing: tokio::sync::Mutex<()>,
    next: AtomicU64,
    reader: tokio::task::AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[derive(Debug)]
struct Shared {
    stream: UnixStream,
    /// Where the answers to a call go; `None` once the connection has ended.
    pending: Mutex<Option<HashMap<u64, mpsc::UnboundedSender<Received>>>>,
}

type Received = (Body, Vec<OwnedFd>);

/// Who answers at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupervisorInfo {
    /// Its process.
    pub pid: u32,
    /// Its version; another one than ours is from before an upgrade.
    pub version: String,
}

/// The supervisor's socket below its data folder.
#[must_use]
pub fn socket_path(data: &Path) -> PathBuf {
    data.join(SOCKET)
}

impl Client {
    /// Connects to a supervisor's socket, see [`socket_path`].
    pub async fn connect(path: impl AsRef<Path>) -> Result<Client> {
        let path = path.as_ref().to_path_buf();
        let stream =
            UnixStream::connect(&path)
                .await
                .map_err(|source| RuntimeError::Unreachable {
                    path: path.clone(),
                    source,
                })?;
        let shared = Arc::new(Shared {
            stream,
            pending: Mutex::new(Some(HashMap::new())),
        });
        let reader = tokio::spawn(read_answers(Arc::clone(&shared))).abort_handle();
        let inner = Inner {
            path,
            cgroup: Mutex::new(None),
            hierarchies: OnceLock::new(),
            shared,
            writing: tokio::sync::Mutex::new(()),
            next: AtomicU64::new(1),
            reader,
        };
        Ok(Client {
            inner: Arc::new(inner),
        })
    }

    /// Asks who answers.
    pub async fn ping(&self) -> Result<SupervisorInfo> {
        match self.ask(Request::Ping).await? {
            Body::Pong {
                pid,
                version,
                cgroup,
            } => {
                *self
                    .inner
                    .cgroup
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(cgroup);
                Ok(SupervisorInfo { pid, version })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Makes a pod's namespaces. The same pod again gives the sandbox that stands.
    pub async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox> {
        match self.ask(Request::CreateSandbox(spec)).await? {
            Body::Sandbox(sandbox) => Ok(sandbox),
            other => Err(unexpected(&other)),
        }
    }

    /// Removes a pod's sandbox; its containers must be gone. No error when there is none.
    pub async fn remove_sandbox(&self, pod: &str) -> Result<()> {
        self.done(Request::RemoveSandbox {
            pod: pod.to_owned(),
        })
        .await
    }

    /// Creates a container; its process waits for [`start_container`](Self::start_container). An ended container of
    /// the same name and a lower attempt is removed first; any other of that name is `AlreadyExists`.
    pub async fn create_container(&self, spec: ContainerSpec) -> Result<ContainerState> {
        self.container(Request::CreateContainer(Box::new(spec)))
            .await
    }

    /// Creates a container, see [`create_container`](Self::create_container), and lets it run. A short one may have
    /// ended already.
    pub async fn run_container(&self, spec: ContainerSpec) -> Result<ContainerState> {
        self.container(Request::RunContainer(Box::new(spec))).await
    }

    /// Lets a created container run.
    pub async fn start_container(&self, pod: &str, name: &str) -> Result<ContainerState> {
        self.container(Request::StartContainer(key(pod, name)))
            .await
    }

    /// Sends a signal to a container's first process. No error when it has ended already.
    pub async fn signal_container(&self, pod: &str, name: &str, signal: i32) -> Result<()> {
        self.done(Request::SignalContainer {
            key: key(pod, name),
            signal,
        })
        .await
    }

    /// Gives a container that runs other limits.
    pub async fn resize_container(
        &self,
        pod: &str,
        name: &str,
        resources: ResourceSpec,
    ) -> Result<()> {
        self.done(Request::ResizeContainer {
            key: key(pod, name),
            resources,
        })
        .await
    }

    /// Kills a container if it lives and removes all of it but its logs. No error when there is none.
    pub async fn remove_container(&self, pod: &str, name: &str) -> Result<()> {
        self.done(Request::RemoveContainer(key(pod, name))).await
    }

    /// Starts a command in a running container.
    pub async fn exec(&self, spec: ExecSpec) -> Result<ExecSession> {
        exec::start(self, spec).await
    }

    /// Everything that the supervisor has.
    pub async fn list(&self) -> Result<(Vec<Sandbox>, Vec<ContainerState>)> {
        match self.ask(Request::List).await? {
            Body::List {
                sandboxes,
                containers,
            } => Ok((sandboxes, containers)),
            other => Err(unexpected(&other)),
        }
    }

    /// Changes of containers, on a connection of its own: first every container as it is, then each one that changes.
    /// The stream ends with the connection.
    pub async fn events(&self) -> Result<Events> {
        let client = Client::connect(&self.inner.path).await?;
        let mut answers = client.call(Request::Subscribe, Vec::new()).await?;
        match answers.recv().await.map(|(body, _)| body) {
            Some(Body::Done) => Ok(Events {
                answers,
                _client: client,
            }),
            Some(Body::Failed(fault)) => Err(fault.into_error("subscribe to", "container changes")),
            Some(other) => Err(unexpected(&other)),
            None => Err(disconnected(&Request::Subscribe)),
        }
    }

    /// What a container has used; read from its cgroup directly.
    pub async fn usage(&self, pod: &str, name: &str) -> Result<Usage> {
        let cgroup = self.node_cgroup().await?;
        let of = cgroup::container_path(&cgroup, pod, name);
        let read = || match self.inner.hierarchies.get() {
            Some(cgroups) => cgroups.usage(&of),
            None => {
                let found = Cgroups::detect()?;
                self.inner.hierarchies.get_or_init(|| found).usage(&of)
            }
        };
        read().map_err(|e| RuntimeError::io("read the usage of", key(pod, name), e))
    }

    /// Ends the supervisor with all of its containers, sandboxes, mounts and cgroups. For taking a node away for good.
    pub async fn shutdown(&self) -> Result<()> {
        self.done(Request::Shutdown).await
    }

    async fn node_cgroup(&self) -> Result<String> {
        let known = self
            .inner
            .cgroup
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone();
        match known {
            Some(cgroup) => Ok(cgroup),
            None => {
                self.ping().await?;
                let known = self
                    .inner
                    .cgroup
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .clone();
                known.ok_or_else(|| {
                    RuntimeError::Protocol("no cgroup in the answer to a ping".into())
                })
            }
        }
    }

    async fn done(&self, request: Request) -> Result<()> {
        match self.ask(request).await? {
            Body::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn container(&self, request: Request) -> Result<ContainerState> {
        match self.ask(request).await? {
            Body::Container(state) => Ok(*state),
            other => Err(unexpected(&other)),
        }
    }

    /// One request, one answer; faults become errors.
    async fn ask(&self, request: Request) -> Result<Body> {
        let (operation, object) = request.subject();
        let mut answers = self.call(request, Vec::new()).await?;
        match answers.recv().await {
            Some((Body::Failed(fault), _)) => Err(fault.into_error(operation, &object)),
            Some((body, _)) => Ok(body),
            None => Err(RuntimeError::Disconnected {
                operation: operation.to_owned(),
                object,
            }),
        }
    }

    /// Sends a request; its answers arrive at what is returned until that is dropped.
    async fn call(&self, request: Request, fds: Vec<OwnedFd>) -> Result<Answers> {
        let (operation, object) = request.subject();
        let gone = || RuntimeError::Disconnected {
            operation: operation.to_owned(),
            object: object.clone(),
        };
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let mut frame = Outgoing::new(&Call { id, request }, fds)
            .map_err(|e| RuntimeError::io(operation, &object, e))?;
        let (sender, receiver) = mpsc::unbounded_channel();
        match self.inner.shared.lock().as_mut() {
            Some(pending) => pending.insert(id, sender),
            None => return Err(gone()),
        };
        let answers = Answers {
            id,
            receiver,
            shared: Arc::clone(&self.inner.shared),
        };
        let _turn = self.inner.writing.lock().await;
        let stream = &self.inner.shared.stream;
        loop {
            stream.writable().await.map_err(|_| gone())?;
            match stream.try_io(Interest::WRITABLE, || {
                if frame.send(stream.as_fd())? {
                    Ok(())
                } else {
                    Err(std::io::ErrorKind::WouldBlock.into())
                }
            }) {
                Ok(()) => return Ok(answers),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(gone()),
            }
        }
    }
}

impl Shared {
    fn lock(
        &self,
    ) -> std::sync::MutexGuard<'_, Option<HashMap<u64, mpsc::UnboundedSender<Received>>>> {
        self.pending
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The answers to one call.
#[derive(Debug)]
struct Answers {
    id: u64,
    receiver: mpsc::UnboundedReceiver<Received>,
    shared: Arc<Shared>,
}

impl Answers {
    async fn recv(&mut self) -> Option<Received> {
        self.receiver.recv().await
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        if let Some(pending) = self.shared.lock().as_mut() {
            pending.remove(&self.id);
        }
    }
}

async fn read_answers(shared: Arc<Shared>) {
    let mut incoming = Incoming::default();
    loop {
        if shared.stream.readable().await.is_err() {
            break;
        }
        match shared.stream.try_io(Interest::READABLE, || {
            incoming.receive(shared.stream.as_fd())
        }) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => break,
        }
        loop {
            match incoming.next::<Answer>() {
                Ok(Some((answer, fds))) => {
                    if let Some(sender) = shared
                        .lock()
                        .as_ref()
                        .and_then(|pending| pending.get(&answer.id))
                    {
                        // A caller that lost interest is no fault.
                        let _ = sender.send((answer.body, fds));
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, "the supervisor sent what can't be read");
                    shared.lock().take();
                    return;
                }
            }
        }
    }
    shared.lock().take();
}

/// Changes of containers; see [`Client::events`].
#[derive(Debug)]
pub struct Events {
    answers: Answers,
    _client: Client,
}

impl Stream for Events {
    type Item = ContainerState;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<ContainerState>> {
        loop {
            match self.answers.receiver.poll_recv(context) {
                Poll::Ready(Some((Body::Container(state), _))) => return Poll::Ready(Some(*state)),
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

fn key(pod: &str, name: &str) -> ContainerKey {
    ContainerKey {
        pod: pod.to_owned(),
        name: name.to_owned(),
    }
}

fn unexpected(body: &Body) -> RuntimeError {
    RuntimeError::Protocol(format!("unexpected answer {body:?}"))
}

fn disconnected(request: &Request) -> RuntimeError {
    let (operation, object) = request.subject();
    RuntimeError::Disconnected {
        operation: operation.to_owned(),
        object,
    }
}
