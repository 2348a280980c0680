//! Frames: eight bytes of head, then what the head says. Read with bounds, since a client writes them.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::headers::{self, Headers, HeadersError};

/// The version in control frames; 3.1 writes 3.
const VERSION: u16 = 3;
const HEAD: usize = 8;
/// Bytes after the head of a data frame. Go's clients write 32 KiB.
const MOST_DATA: usize = 1 << 20;
/// Bytes after the head of any other.
const MOST_CONTROL: usize = 16 << 10;
const CONTROL: u32 = 1 << 31;
const FIN: u8 = 1;
const STREAM: u32 = 0x7fff_ffff;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// Status of RST_STREAM: the stream was not begun.
pub(super) const REFUSED_STREAM: u32 = 3;

/// One frame. `last` says that its sender sends no more on the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// Opens a stream.
    SynStream {
        /// Odd when the client opens it.
        stream: u32,
        /// What it is for.
        headers: Headers,
        /// No more follows.
        last: bool,
    },
    /// Accepts one.
    SynReply {
        /// Which.
        stream: u32,
        /// Usually none.
        headers: Headers,
        /// No more follows.
        last: bool,
    },
    /// Ends one at once, both ways.
    RstStream {
        /// Which.
        stream: u32,
        /// Why.
        status: u32,
    },
    /// Bytes of one.
    Data {
        /// Which.
        stream: u32,
        /// Some, or none at its end.
        bytes: Bytes,
        /// No more follows.
        last: bool,
    },
    /// To be sent back.
    Ping(u32),
    /// No more streams are opened.
    GoAway {
        /// The last stream that was accepted.
        stream: u32,
        /// 0: all is well.
        status: u32,
    },
    /// More headers of a stream, settings, windows and what is not known: none of it means anything here.
    Other,
}

/// Why frames can't be read any further.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    /// It would take too much room.
    #[error("a SPDY frame of type {kind} has {length} bytes, more than the {most} that are read")]
    TooLarge {
        /// 0 for data.
        kind: u16,
        /// As its head says.
        length: usize,
        /// The bound.
        most: usize,
    },
    /// Another protocol.
    #[error("a SPDY frame has version {0}, not {VERSION}")]
    Version(u16),
    /// Shorter than what is in every frame of its type.
    #[error("a SPDY frame of type {0} is too short")]
    TooShort(u16),
    /// Its headers.
    #[error(transparent)]
    Headers(#[from] HeadersError),
    /// The connection.
    #[error("a SPDY connection broke: {0}")]
    Io(#[from] std::io::Error),
}

/// Reads frames.
#[derive(Debug)]
pub(super) struct Decoder {
    headers: headers::Reader,
}

impl Decoder {
    /// For a connection that begins.
    pub(super) fn new() -> Self {
        Self {
            headers: headers::Reader::new(),
        }
    }

    fn control(&mut self, kind: u16, flags: u8, body: &mut Bytes) -> Result<Frame, FrameError> {
        let last = flags & FIN != 0;
        let mut word = || body.try_get_u32().map_err(|_| FrameError::TooShort(kind));
        Ok(match kind {
            SYN_STREAM => {
                let stream = word()? & STREAM;
                // The stream that it belongs to, its priority and a slot.
                word()?;
                body.try_get_u16().map_err(|_| FrameError::TooShort(kind))?;
                let headers = self.headers.read(body)?;
                Frame::SynStream {
                    stream,
                    headers,
                    last,
                }
            }
            SYN_REPLY => Frame::SynReply {
                stream: word()? & STREAM,
                headers: self.headers.read(body)?,
                last,
            },
            RST_STREAM => Frame::RstStream {
                stream: word()? & STREAM,
                status: word()?,
            },
            PING => Frame::Ping(word()?),
            GOAWAY => Frame::GoAway {
                stream: word()? & STREAM,
                status: word()?,
            },
            HEADERS => {
                word()?;
                // The next block can't be read without this one.
                self.headers.read(body)?;
                Frame::Other
            }
            _ => Frame::Other,
        })
    }
}

impl tokio_util::codec::Decoder for Decoder {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(mut head) = source.get(..HEAD) else {
            return Ok(None);
        };
        let (first, second) = (head.get_u32(), head.get_u32());
        let [flags, length @ ..] = second.to_be_bytes();
        let length =
            usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]);
        let is_control = first & CONTROL != 0;
        // Of a control frame, the upper half is the version and the lower the type.
        let (version, kind) = match first.to_be_bytes() {
            [a, b, c, d] if is_control => (
                u16::from_be_bytes([a & 0x7f, b]),
                u16::from_be_bytes([c, d]),
            ),
            _ => (VERSION, 0),
        };
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let most = if is_control { MOST_CONTROL } else { MOST_DATA };
        if length > most {
            return Err(FrameError::TooLarge { kind, length, most });
        }
        if source.len() < HEAD + length {
            source.reserve(HEAD + length - source.len());
            return Ok(None);
        }
        source.advance(HEAD);
        let mut body = source.split_to(length).freeze();
        if is_control {
            return self.control(kind, flags, &mut body).map(Some);
        }
        Ok(Some(Frame::Data {
            stream: first,
            bytes: body,
            last: flags & FIN != 0,
        }))
    }
}

/// Writes frames.
#[derive(Debug)]
pub(super) struct Encoder {
    headers: headers::Writer,
}

impl Encoder {
    /// For a connection that begins.
    pub(super) fn new() -> Self {
        Self {
            headers: headers::Writer::new(),
        }
    }

    /// Appends a frame; of data, as many as its bytes need.
    pub(super) fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        match frame {
            Frame::SynStream {
                stream,
                headers,
                last,
            } => {
                let block = self.headers.write(headers);
                control(out, SYN_STREAM, *last, 10 + block.len());
                out.put_u32(*stream);
                out.put_u32(0);
                out.put_u16(0);
                out.put_slice(&block);
            }
            Frame::SynReply {
                stream,
                headers,
                last,
            } => {
                let block = self.headers.write(headers);
                control(out, SYN_REPLY, *last, 4 + block.len());
                out.put_u32(*stream);
                out.put_slice(&block);
            }
            Frame::RstStream { stream, status } => {
                control(out, RST_STREAM, false, 8);
                out.put_u32(*stream);
                out.put_u32(*status);
            }
            Frame::Data {
                stream,
                bytes,
                last,
            } => data(out, *stream, bytes, *last),
            Frame::Ping(number) => {
                control(out, PING, false, 4);
                out.put_u32(*number);
            }
            Frame::GoAway { stream, status } => {
                control(out, GOAWAY, false, 8);
                out.put_u32(*stream);
                out.put_u32(*status);
            }
            Frame::Other => {}
        }
    }
}

fn control(out: &mut BytesMut, kind: u16, last: bool, length: usize) {
    out.put_u16(VERSION | 1 << 15);
    out.put_u16(kind);
    flags_and_length(out, last, length);
}

fn data(out: &mut BytesMut, stream: u32, bytes: &Bytes, last: bool) {
    let mut rest = bytes.as_ref();
    loop {
        let (now, later) = rest.split_at(rest.len().min(MOST_DATA));
        out.put_u32(stream & STREAM);
        flags_and_length(out, last && later.is_empty(), now.len());
        out.put_slice(now);
        if later.is_empty() {
            return;
        }
        rest = later;
    }
}

fn flags_and_length(out: &mut BytesMut, last: bool, length: usize) {
    out.put_u8(u8::from(last) * FIN);
    out.put_uint(length as u64, 3);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_util::codec::Decoder as _;

    use super::*;

    fn frame() -> impl Strategy<Value = Frame> {
        let stream = || 0..=STREAM;
        let headers = || prop::collection::vec(("[a-z-]{1,20}", ".{0,40}"), 0..6);
        prop_oneof![
            (stream(), headers(), any::<bool>()).prop_map(|(stream, headers, last)| {
                Frame::SynStream {
                    stream,
                    headers,
                    last,
                }
            }),
            (stream(), headers(), any::<bool>()).prop_map(|(stream, headers, last)| {
                Frame::SynReply {
                    stream,
                    headers,
                    last,
                }
            }),
            (stream(), any::<u32>())
                .prop_map(|(stream, status)| Frame::RstStream { stream, status }),
            (
                stream(),
                prop::collection::vec(any::<u8>(), 0..300),
                any::<bool>()
            )
                .prop_map(|(stream, bytes, last)| Frame::Data {
                    stream,
                    bytes: bytes.into(),
                    last
                }),
            any::<u32>().prop_map(Frame::Ping),
            (stream(), any::<u32>()).prop_map(|(stream, status)| Frame::GoAway { stream, status }),
        ]
    }

    fn decoded(decoder: &mut Decoder, source: &mut BytesMut) -> Result<Vec<Frame>, FrameError> {
        let mut frames = Vec::new();
        while let Some(frame) = decoder.decode(source)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    proptest! {
        #[test]
        fn frames_come_back_however_they_arrive(frames in prop::collection::vec(frame(), 1..10), piece in 1..64_usize) {
            let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
            let mut wire = BytesMut::new();
            for frame in &frames {
                encoder.encode(frame, &mut wire);
            }
            let (mut source, mut heard) = (BytesMut::new(), Vec::new());
            for piece in wire.chunks(piece) {
                source.put_slice(piece);
                heard.extend(decoded(&mut decoder, &mut source).unwrap());
            }
            prop_assert_eq!(heard, frames);
            prop_assert!(source.is_empty());
        }

        #[test]
        fn garbage_neither_panics_nor_grows(bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0..12_u8, control in any::<bool>()) {
            let mut source = BytesMut::from(&bytes[..]);
            if let (true, Some(head)) = (control, source.get_mut(..6)) {
                // Near enough to a control frame to be looked into.
                head.copy_from_slice(&[0x80, 3, 0, kind, 0, 0]);
            }
            drop(decoded(&mut Decoder::new(), &mut source));
            prop_assert!(source.capacity() <= HEAD + MOST_DATA + 4096);
        }
    }

    #[test]
    fn what_is_too_large_or_of_another_version_is_refused_by_its_head() {
        let check = |head: [u8; 8], expect: &str| {
            let fault = decoded(&mut Decoder::new(), &mut BytesMut::from(&head[..])).unwrap_err();
            assert!(fault.to_string().contains(expect), "{fault}");
        };
        check([0, 0, 0, 1, 0, 0x20, 0, 0], "more than the 1048576");
        check([0x80, 3, 0, 1, 0, 0, 0x50, 0], "more than the 16384");
        check([0x80, 2, 0, 1, 0, 0, 0, 0], "version 2");
        check([0x80, 3, 0, 6, 0, 0, 0, 0], "too short");
    }

    #[test]
    fn much_data_becomes_several_frames() {
        let frame = Frame::Data {
            stream: 5,
            bytes: vec![7; MOST_DATA + 1].into(),
            last: true,
        };
        let mut wire = BytesMut::new();
        Encoder::new().encode(&frame, &mut wire);
        let frames = decoded(&mut Decoder::new(), &mut wire).unwrap();
        let shown: Vec<_> = frames
            .iter()
            .map(|frame| match frame {
                Frame::Data { bytes, last, .. } => (bytes.len(), *last),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(shown, [(MOST_DATA, false), (1, true)]);
    }
}
