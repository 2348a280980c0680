//! Kubernetes' remote command protocol over WebSocket: each binary message starts with the number of its channel.
//! <https://github.com/kubernetes/enhancements/tree/master/keps/sig-api-machinery/4006-transition-spdy-to-websockets>

use axum::extract::ws::Message;
use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::{Value, json};
use waggle_api::Status;
use waggle_wire::v1;

/// With half close of stdin.
pub(super) const V5: &str = "v5.channel.k8s.io";
/// Without.
pub(super) const V4: &str = "v4.channel.k8s.io";

const STDIN: u8 = 0;
/// Output channel.
pub(super) const STDOUT: u8 = 1;
/// Output channel.
pub(super) const STDERR: u8 = 2;
/// Carries one Status at the end.
pub(super) const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// What a client's message says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Input.
    Stdin(Bytes),
    /// The terminal has another size.
    Resize(v1::Resize),
    /// No more input.
    StdinClosed,
    /// It hangs up.
    Gone,
    /// Nothing that matters here.
    Nothing,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u32,
    height: u32,
}

/// Reads a client's message.
pub(super) fn said(message: Message) -> Said {
    let bytes = match message {
        Message::Binary(bytes) => bytes,
        Message::Text(text) => Bytes::from(text),
        Message::Close(_) => return Said::Gone,
        Message::Ping(_) | Message::Pong(_) => return Said::Nothing,
    };
    match bytes.first() {
        Some(&STDIN) if bytes.len() > 1 => Said::Stdin(bytes.slice(1..)),
        Some(&RESIZE) => match serde_json::from_slice::<Size>(&bytes[1..]) {
            Ok(size) => Said::Resize(v1::Resize {
                width: size.width,
                height: size.height,
            }),
            Err(_) => Said::Nothing,
        },
        Some(&CLOSE) if bytes.get(1) == Some(&STDIN) => Said::StdinClosed,
        _ => Said::Nothing,
    }
}

/// A message on a channel.
pub(super) fn message(channel: u8, payload: &[u8]) -> Message {
    let mut bytes = BytesMut::with_capacity(payload.len() + 1);
    bytes.put_u8(channel);
    bytes.put_slice(payload);
    Message::Binary(bytes.freeze())
}

/// The last message of a command: how it ended.
pub(super) fn ended(outcome: &Result<i32, Status>) -> Message {
    let status: Value = match outcome {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(status) => status.to_value(),
    };
    message(ERROR, status.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expect: Said) {
        assert_eq!(
            said(Message::Binary(Bytes::copy_from_slice(bytes))),
            expect,
            "{bytes:?}"
        );
    }

    #[test]
    fn messages_are_told_apart_by_their_first_byte() {
        check(b"\x00hi", Said::Stdin(Bytes::from_static(b"hi")));
        check(
            b"\x04{\"Width\":80,\"Height\":24}",
            Said::Resize(v1::Resize {
                width: 80,
                height: 24,
            }),
        );
        check(b"\x04nonsense", Said::Nothing);
        check(&[255, 0], Said::StdinClosed);
        check(&[255, 1], Said::Nothing);
        check(&[], Said::Nothing);
        check(&[0], Said::Nothing);
        assert_eq!(said(Message::Close(None)), Said::Gone);
    }

    #[test]
    fn an_exit_code_is_told_as_kubernetes_tells_it() {
        let Message::Binary(bytes) = ended(&Ok(3)) else {
            panic!("binary")
        };
        assert_eq!(bytes[0], ERROR);
        let status: Value = serde_json::from_slice(&bytes[1..]).unwrap();
        assert_eq!(
            status["details"]["causes"][0],
            json!({"reason": "ExitCode", "message": "3"})
        );
        assert_eq!(status["reason"], "NonZeroExitCode");
    }
}
