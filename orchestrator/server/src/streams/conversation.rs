//! What a user says to a command or a port in a pod and is told by it, whatever carries it, and the bridge between the
//! user and the stream with the pod's node. What carries it lives beside: `channel` (WebSocket) and `spdy`.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use waggle_api::Status;
use waggle_wire::v1;
use waggle_wire::v1::stream_frame::Frame;

use super::target::fault;
use crate::sessions::StreamEnds;

/// How long a user's client may take to hang up after the end.
pub(super) const FAREWELL: Duration = Duration::from_secs(5);

/// From a user.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Input of a command, or bytes for a port.
    Stdin(Bytes),
    /// No more of it.
    StdinClosed,
    /// The terminal has another size.
    Resize(v1::Resize),
}

/// To a user.
#[derive(Debug)]
pub(super) enum Told {
    /// Output of a command, or bytes from a port.
    Stdout(Bytes),
    /// Output of a command.
    Stderr(Bytes),
    /// How it ended: an exit code, or why there is none. The last that is told.
    End(Result<i32, Status>),
}

/// The user is gone.
#[derive(Debug)]
pub(super) struct HungUp;

/// The way from a user.
pub(super) trait Listen: Send {
    /// What the user says next; `None` when they hung up.
    fn hear(&mut self) -> impl Future<Output = Option<Said>> + Send;
}

/// The way to a user.
pub(super) trait Speak: Send {
    /// Tells the user.
    fn tell(&mut self, told: Told) -> impl Future<Output = Result<(), HungUp>> + Send;
}

/// Carries both ways until what runs in the pod has ended or the user hung up. Neither way waits for the other: a
/// command may write more than it was read of while it is fed. Letting go of `ends` tells the agent that nobody listens.
pub(super) async fn bridge(
    from_user: &mut impl Listen,
    to_user: &mut impl Speak,
    ends: StreamEnds,
) {
    let StreamEnds {
        to_agent,
        mut from_agent,
    } = ends;
    let inward = async {
        while let Some(said) = from_user.hear().await {
            let frame = match said {
                Said::Stdin(bytes) => Frame::Stdin(bytes),
                Said::StdinClosed => Frame::StdinClosed(true),
                Said::Resize(size) => Frame::Resize(size),
            };
            // Input may come after its reader's end.
            drop(
                to_agent
                    .send(Ok(v1::StreamFrame { frame: Some(frame) }))
                    .await,
            );
        }
    };
    let outward = async {
        loop {
            let Some(told) = told(from_agent.message().await) else {
                continue;
            };
            let ends = matches!(told, Told::End(_));
            if to_user.tell(told).await.is_err() || ends {
                return;
            }
        }
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}

fn told(message: Result<Option<v1::StreamFrame>, tonic::Status>) -> Option<Told> {
    match message {
        Ok(Some(message)) => match message.frame? {
            Frame::Stdout(bytes) => Some(Told::Stdout(bytes)),
            Frame::Stderr(bytes) => Some(Told::Stderr(bytes)),
            Frame::End(end) => Some(Told::End(fault(&end).map_or(Ok(end.exit_code), Err))),
            _ => None,
        },
        Ok(None) => Some(Told::End(Err(Status::internal(
            "the node ended the stream early",
        )))),
        Err(status) => Some(Told::End(Err(Status::internal(status.message())))),
    }
}

/// How a command ended, as Kubernetes tells it.
pub(super) fn outcome(ended: &Result<i32, Status>) -> Value {
    match ended {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(status) => status.to_value(),
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u32,
    height: u32,
}

/// Reads a terminal's size as clients write it, `{"Width":80,"Height":24}`.
pub(super) fn size(text: &[u8]) -> Option<v1::Resize> {
    let size: Size = serde_json::from_slice(text).ok()?;
    Some(v1::Resize {
        width: size.width,
        height: size.height,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_told_as_kubernetes_tells_it() {
        let status = outcome(&Ok(3));
        assert_eq!(
            status["details"]["causes"][0],
            json!({"reason": "ExitCode", "message": "3"})
        );
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(outcome(&Ok(0))["status"], "Success");
    }
}
