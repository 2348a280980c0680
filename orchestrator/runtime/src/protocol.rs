//! The words on the two sockets of the supervisor: its clients' and its workers'. Framing and descriptors: `frame`.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{FaultKind, RuntimeError};
use crate::spec::{
    ContainerKey, ContainerSpec, ContainerState, ExecSpec, MountSpec, ResourceSpec, Sandbox,
    SandboxSpec,
};

/// Name of the supervisor's socket in its data folder.
pub(crate) const SOCKET: &str = "supervisor.sock";

/// A client's request; `id` is the client's, and comes back with every answer to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) id: u64,
    pub(crate) request: Request,
}

/// What a client may ask.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Who are you?
    Ping,
    CreateSandbox(SandboxSpec),
    RemoveSandbox {
        pod: String,
    },
    CreateContainer(Box<ContainerSpec>),
    /// Creates and starts.
    RunContainer(Box<ContainerSpec>),
    StartContainer(ContainerKey),
    SignalContainer {
        key: ContainerKey,
        signal: i32,
    },
    RemoveContainer(ContainerKey),
    /// Other limits for a container that runs.
    ResizeContainer {
        key: ContainerKey,
        resources: ResourceSpec,
    },
    /// Without a terminal the frame carries stdin, stdout and stderr of the new process.
    Exec(ExecSpec),
    /// What a container writes from now on. Descriptors: pipes for its stdout and stderr.
    Attach(ContainerKey),
    /// Nothing more comes to a container's stdin.
    CloseStdin(ContainerKey),
    /// Signals the process that this connection's exec call `exec` started.
    SignalExec {
        exec: u64,
        signal: i32,
    },
    List,
    /// From now on, every change of a container; all containers first.
    Subscribe,
    /// Start the agent again when it dies. Descriptors: its program, a pidfd of it, its stdout and stderr.
    Revive(AgentCommand),
    /// Don't.
    TakeLeave,
    /// Become this program, with all that is in hand; answered by it. Descriptor: the program.
    Upgrade,
    /// Ends everything and cleans up.
    Shutdown,
}

impl Request {
    /// Operation and object, for error texts.
    pub(crate) fn subject(&self) -> (&'static str, String) {
        match self {
            Request::Ping => ("ping", "supervisor".into()),
            Request::CreateSandbox(spec) => (
                "create sandbox",
                format!("{} ({}/{})", spec.pod, spec.namespace, spec.name),
            ),
            Request::RemoveSandbox { pod } => ("remove sandbox", pod.clone()),
            Request::CreateContainer(spec) => ("create container", spec.key().to_string()),
            Request::RunContainer(spec) => ("run container", spec.key().to_string()),
            Request::StartContainer(key) => ("start container", key.to_string()),
            Request::SignalContainer { key, .. } => ("signal container", key.to_string()),
            Request::RemoveContainer(key) => ("remove container", key.to_string()),
            Request::ResizeContainer { key, .. } => ("resize container", key.to_string()),
            Request::Exec(spec) => ("exec in", format!("{}/{}", spec.pod, spec.container)),
            Request::Attach(key) => ("attach to", key.to_string()),
            Request::CloseStdin(key) => ("close the stdin of", key.to_string()),
            Request::SignalExec { exec, .. } => ("signal exec", exec.to_string()),
            Request::List => ("list", "containers".into()),
            Request::Subscribe => ("subscribe to", "container changes".into()),
            Request::Revive(_) => ("revive", "agent".into()),
            Request::Upgrade => ("upgrade", "supervisor".into()),
            Request::TakeLeave => ("take leave of", "supervisor".into()),
            Request::Shutdown => ("shut down", "supervisor".into()),
        }
    }
}

/// How an agent was started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AgentCommand {
    /// The first argument, by convention the program's name.
    pub(crate) name: OsString,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// Its working directory.
    pub(crate) folder: PathBuf,
}

/// The supervisor's side.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) id: u64,
    pub(crate) body: Body,
}

/// An answer, or one of several answers to one call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Body {
    Done,
    Pong {
        pid: u32,
        version: String,
        cgroup: String,
    },
    Sandbox(Sandbox),
    Container(Box<ContainerState>),
    List {
        sandboxes: Vec<Sandbox>,
        containers: Vec<ContainerState>,
    },
    /// With a terminal, the frame carries its master.
    ExecStarted,
    /// The frame carries the container's terminal, or its stdin if it has one.
    Attached {
        tty: bool,
    },
    /// Last answer to an exec.
    ExecExited {
        code: i32,
    },
    Failed(Fault),
}

/// A failure on its way to the client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    pub(crate) message: String,
}

impl Fault {
    pub(crate) fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Fault {
            kind,
            message: message.into(),
        }
    }

    pub(crate) fn internal(message: impl std::fmt::Display) -> Self {
        Fault::new(FaultKind::Internal, message.to_string())
    }

    pub(crate) fn into_error(self, operation: &str, object: &str) -> RuntimeError {
        RuntimeError::Fault {
            operation: operation.to_owned(),
            object: object.to_owned(),
            kind: self.kind,
            message: self.message,
        }
    }
}

/// The first frame that a worker gets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WorkerSetup {
    /// Where libcontainer keeps its state.
    pub(crate) oci: PathBuf,
    /// Mounts below this folder have no business in the worker's mount namespace; there it is a place of its own.
    pub(crate) hide: PathBuf,
    /// Soft and hard limit of open files that containers get.
    pub(crate) open_files: (u64, u64),
}

/// One piece of work for a worker, which holds no state between jobs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Descriptor: the supervisor's mount namespace.
    CreateSandbox { spec: SandboxSpec, dir: PathBuf },
    /// Descriptors: the namespaces of `namespaces` in their order, then a detached mount for each of `binds`, then
    /// stdin, stdout and stderr unless the container has a terminal.
    CreateContainer(Box<CreateJob>),
    /// Lets it run.
    StartContainer { id: String },
    /// Descriptors without a terminal: stdin, stdout, stderr.
    Exec {
        id: String,
        dir: PathBuf,
        cgroup: String,
        container: Box<ContainerSpec>,
        spec: ExecSpec,
    },
    /// Removes what a container left, whether it was ever complete or not.
    DeleteContainer {
        id: String,
        dir: PathBuf,
        cgroup: String,
    },
}

/// Everything that a worker needs to create a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CreateJob {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
    /// cgroup path below each controller.
    pub(crate) cgroup: String,
    /// Start it too.
    pub(crate) start: bool,
    pub(crate) namespaces: Vec<NamespaceKind>,
    pub(crate) binds: Vec<JobBind>,
    pub(crate) spec: ContainerSpec,
}

/// A namespace that is joined through a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NamespaceKind {
    Network,
    Ipc,
    Uts,
    Pid,
}

/// A mount whose source comes as a descriptor of a detached mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobBind {
    pub(crate) mount: MountSpec,
    /// The source is a folder, otherwise a file.
    pub(crate) folder: bool,
}

/// A worker's answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum JobResult {
    Done,
    /// A process was created; with a terminal the frame carries its master.
    Process {
        pid: i32,
        notes: Vec<String>,
    },
    Failed(Fault),
}
