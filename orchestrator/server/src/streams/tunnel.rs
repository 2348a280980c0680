//! A connection of the server's own to a port of a pod, through the pod's node: bytes in, bytes out.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use waggle_api::Status;
use waggle_wire::v1;
use waggle_wire::v1::open_stream::Request;
use waggle_wire::v1::stream_frame::Frame;

use super::Streams;
use super::target::Target;
use crate::sessions::StreamEnds;

/// Bytes under way in each direction before the sender waits.
const BUFFER: usize = 64 << 10;

/// Connects to a port of a pod. The connection ends when the answer is dropped.
///
/// # Errors
/// As [`Target::open`].
pub(crate) async fn connect(
    streams: &Streams,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<DuplexStream, Status> {
    let target = Target::find(streams, namespace, name)?;
    let request = v1::PortForwardRequest {
        pod: Some(target.pod.clone()),
        port: port.into(),
    };
    let ends = target.open(streams, Request::PortForward(request)).await?;
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    let (read, write) = tokio::io::split(theirs);
    let StreamEnds {
        to_agent,
        from_agent,
    } = ends;
    tokio::spawn(outward(read, to_agent));
    tokio::spawn(inward(from_agent, write));
    Ok(ours)
}

type ToAgent = mpsc::Sender<Result<v1::StreamFrame, tonic::Status>>;

async fn outward(mut from: ReadHalf<DuplexStream>, to_agent: ToAgent) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(count) = from.read(&mut buffer).await {
        let frame = match count {
            0 => Frame::StdinClosed(true),
            _ => Frame::Stdin(bytes::Bytes::copy_from_slice(&buffer[..count])),
        };
        let frame = v1::StreamFrame { frame: Some(frame) };
        if to_agent.send(Ok(frame)).await.is_err() || count == 0 {
            return;
        }
    }
}

async fn inward(
    mut from_agent: tonic::Streaming<v1::StreamFrame>,
    mut to: WriteHalf<DuplexStream>,
) {
    while let Ok(Some(v1::StreamFrame { frame })) = from_agent.message().await {
        let written = match frame {
            Some(Frame::Stdout(bytes)) => to.write_all(&bytes).await,
            Some(Frame::End(end)) => {
                tracing::debug!(fault = %end.fault, "a connection to a pod ended");
                break;
            }
            _ => Ok(()),
        };
        if written.is_err() {
            return;
        }
    }
    // The reader sees the end.
    let _ = to.shutdown().await;
}
