//! One connection: what the client does with its streams, in order, and the way to answer.

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_util::codec::FramedRead;

use super::super::conversation::{FAREWELL, HungUp};
use super::frame::{Decoder, Encoder, Frame, FrameError, REFUSED_STREAM};
use super::headers::Headers;

/// Frames on their way to the client.
const QUEUE: usize = 32;
/// Bytes that are gathered into one write.
const GATHER: usize = 64 << 10;
/// Status of GOAWAY: the client broke the protocol.
const PROTOCOL_ERROR: u32 = 1;

/// What a client did. `last` says that it sends no more on the stream.
#[derive(Debug)]
pub(super) enum Event {
    /// It opened a stream, which waits for its reply.
    Opened {
        stream: u32,
        headers: Headers,
        last: bool,
    },
    /// It sent bytes, perhaps none.
    Data {
        stream: u32,
        bytes: Bytes,
        last: bool,
    },
    /// It wants nothing to do with a stream any more.
    Reset { stream: u32 },
}

/// The client's side of a connection.
pub(super) struct Session<T> {
    frames: FramedRead<ReadHalf<T>, Decoder>,
    out: Option<Out>,
    newest: u32,
}

/// The way to the client. The connection is closed for writing when the last one is gone.
#[derive(Debug, Clone)]
pub(super) struct Out(mpsc::Sender<Frame>);

/// Speaks SPDY over `connection`.
pub(super) fn open<T>(connection: T) -> (Session<T>, Out)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(connection);
    let (out, frames) = mpsc::channel(QUEUE);
    tokio::spawn(write_frames(write, frames));
    let out = Out(out);
    let session = Session {
        frames: FramedRead::new(read, Decoder::new()),
        out: Some(out.clone()),
        newest: 0,
    };
    (session, out)
}

async fn write_frames<T: AsyncWrite>(mut write: WriteHalf<T>, mut frames: mpsc::Receiver<Frame>) {
    let mut encoder = Encoder::new();
    let mut buffer = BytesMut::new();
    while let Some(frame) = frames.recv().await {
        encoder.encode(&frame, &mut buffer);
        while buffer.len() < GATHER
            && let Ok(frame) = frames.try_recv()
        {
            encoder.encode(&frame, &mut buffer);
        }
        if write.write_all_buf(&mut buffer).await.is_err() || write.flush().await.is_err() {
            return;
        }
    }
    // Where the client is gone, nobody needs the end.
    let _ = write.shutdown().await;
}

impl<T: AsyncRead + AsyncWrite> Session<T> {
    /// What the client does next; `None` when it hung up, or said what no client says.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            match self.frames.next().await? {
                Ok(Frame::SynStream {
                    stream,
                    headers,
                    last,
                }) => {
                    // A client's streams have odd numbers, each higher than the one before.
                    if stream % 2 == 0 || stream <= self.newest {
                        return self
                            .broken(&format!("stream {stream} after {}", self.newest))
                            .await;
                    }
                    self.newest = stream;
                    return Some(Event::Opened {
                        stream,
                        headers,
                        last,
                    });
                }
                Ok(Frame::Data {
                    stream,
                    bytes,
                    last,
                }) => {
                    return Some(Event::Data {
                        stream,
                        bytes,
                        last,
                    });
                }
                Ok(Frame::RstStream { stream, .. }) => return Some(Event::Reset { stream }),
                Ok(Frame::Ping(number)) => {
                    if let Some(out) = &self.out {
                        out.send(Frame::Ping(number)).await.ok()?;
                    }
                }
                // What the client answers to streams that the server never opens, and what needs no answer.
                Ok(Frame::SynReply { .. } | Frame::GoAway { .. } | Frame::Other) => {}
                Err(FrameError::Io(_)) => return None,
                Err(error) => return self.broken(&error.to_string()).await,
            }
        }
    }

    async fn broken(&mut self, why: &str) -> Option<Event> {
        tracing::debug!(why, "a client does not speak SPDY/3.1 as it should");
        let farewell = Frame::GoAway {
            stream: self.newest,
            status: PROTOCOL_ERROR,
        };
        if let Some(out) = &self.out {
            drop(out.send(farewell).await);
        }
        None
    }

    /// Waits until the client has hung up, bounded: what is reset before it has read everything may be lost.
    pub(super) async fn finish(mut self) {
        self.out = None;
        let hung_up = async { while self.next().await.is_some() {} };
        drop(tokio::time::timeout(FAREWELL, hung_up).await);
    }
}

impl Out {
    /// Accepts a stream.
    pub(super) async fn accept(&self, stream: u32) -> Result<(), HungUp> {
        let headers = Headers::new();
        self.send(Frame::SynReply {
            stream,
            headers,
            last: false,
        })
        .await
    }

    /// Does not accept it.
    pub(super) async fn refuse(&self, stream: u32) -> Result<(), HungUp> {
        let status = REFUSED_STREAM;
        self.send(Frame::RstStream { stream, status }).await
    }

    /// Sends bytes.
    pub(super) async fn data(&self, stream: u32, bytes: Bytes) -> Result<(), HungUp> {
        let last = false;
        self.send(Frame::Data {
            stream,
            bytes,
            last,
        })
        .await
    }

    /// Says that nothing more comes on a stream.
    pub(super) async fn end(&self, stream: u32) -> Result<(), HungUp> {
        let bytes = Bytes::new();
        self.send(Frame::Data {
            stream,
            bytes,
            last: true,
        })
        .await
    }

    async fn send(&self, frame: Frame) -> Result<(), HungUp> {
        self.0.send(frame).await.map_err(|_| HungUp)
    }
}

/// A header by its name, in lower case.
pub(super) fn header<'a>(headers: &'a Headers, name: &str) -> &'a str {
    let found = headers.iter().find(|(known, _)| known == name);
    found.map_or("", |(_, value)| value.as_str())
}
