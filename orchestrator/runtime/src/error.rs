//! What can go wrong between the agent and its supervisor, with the operation and the object named.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Why the supervisor refused or failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// No such sandbox or container.
    NotFound,
    /// It is already there.
    AlreadyExists,
    /// Not possible in the state that it is in (exec in a container that ended).
    InvalidState,
    /// What was asked for can't be run: missing executable, bad mount, bad user. Retrying won't help until it changes.
    Invalid,
    /// Took longer than its bound and was undone.
    TimedOut,
    /// The host failed us.
    Internal,
}

/// Failure of an operation of the runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The supervisor answered with a fault.
    #[error("{operation} {object}: {message}")]
    Fault {
        /// What was asked.
        operation: String,
        /// Pod UID, or pod UID and container name.
        object: String,
        /// Class, for decisions.
        kind: FaultKind,
        /// Cause, for people.
        message: String,
    },
    /// The supervisor's socket doesn't answer.
    #[error("connect to the supervisor at {}: {source}", path.display())]
    Unreachable {
        /// Socket.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The supervisor went away before it answered; list again after connecting anew.
    #[error("{operation} {object}: the supervisor closed the connection")]
    Disconnected {
        /// What was asked.
        operation: String,
        /// On what.
        object: String,
    },
    /// An operation of this process failed.
    #[error("{operation} {object}: {source}")]
    Io {
        /// What was tried.
        operation: String,
        /// On what.
        object: String,
        /// Cause.
        source: std::io::Error,
    },
    /// The other side speaks another language.
    #[error("supervisor protocol: {0}")]
    Protocol(String),
    /// The supervisor was started and didn't come up.
    #[error("start the supervisor for {}: {reason}", data.display())]
    NotStarted {
        /// Data folder.
        data: PathBuf,
        /// Cause.
        reason: String,
    },
}

impl RuntimeError {
    /// The class when the supervisor answered with a fault.
    #[must_use]
    pub fn kind(&self) -> Option<FaultKind> {
        match self {
            RuntimeError::Fault { kind, .. } => Some(*kind),
            _ => None,
        }
    }

    pub(crate) fn io(
        operation: &str,
        object: impl std::fmt::Display,
        source: impl Into<std::io::Error>,
    ) -> Self {
        RuntimeError::Io {
            operation: operation.to_owned(),
            object: object.to_string(),
            source: source.into(),
        }
    }
}

/// Short form.
pub type Result<T> = std::result::Result<T, RuntimeError>;
