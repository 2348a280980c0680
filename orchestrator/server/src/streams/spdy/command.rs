//! Commands (`exec` and `attach`): the client opens a stream for each of error, stdin, stdout, stderr and resize.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::conversation::{HungUp, Listen, Said, Speak, Told, bridge, outcome, size};
use super::session::{self, Event, Out, Session, header};
use crate::sessions::StreamEnds;

const V4: &str = "v4.channel.k8s.io";
const V2: &str = "v2.channel.k8s.io";
const V1: &str = "channel.k8s.io";
/// The end is a Status in V4, words before; sizes came with the third.
pub(in super::super) const PROTOCOLS: &[&str] = &[V4, "v3.channel.k8s.io", V2, V1];

/// How long a client may take to open its streams.
const OPENING: Duration = Duration::from_secs(30);
/// Frames of input that may come before all streams are open.
const EARLY: usize = 64;
/// Bytes of a size that has not come whole.
const MOST_SIZE: usize = 1024;

/// Which streams the client said it opens.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Wanted {
    /// Input.
    pub(in super::super) stdin: bool,
    /// Output.
    pub(in super::super) stdout: bool,
    /// Output, where there is no terminal.
    pub(in super::super) stderr: bool,
    /// A terminal, with its size.
    pub(in super::super) tty: bool,
}

/// The streams by what they carry.
#[derive(Debug, Clone, Copy, Default)]
struct Roles {
    error: Option<u32>,
    stdin: Option<u32>,
    stdout: Option<u32>,
    stderr: Option<u32>,
    resize: Option<u32>,
}

impl Roles {
    fn place(&mut self, name: &str) -> Option<&mut Option<u32>> {
        Some(match name {
            "error" => &mut self.error,
            "stdin" => &mut self.stdin,
            "stdout" => &mut self.stdout,
            "stderr" => &mut self.stderr,
            "resize" => &mut self.resize,
            _ => return None,
        })
    }

    fn complete(&self, wanted: Wanted, protocol: &str) -> bool {
        let sizes = wanted.tty && ![V1, V2].contains(&protocol);
        self.error.is_some()
            && (self.stdin.is_some() || !wanted.stdin)
            && (self.stdout.is_some() || !wanted.stdout)
            && (self.stderr.is_some() || !wanted.stderr || wanted.tty)
            && (self.resize.is_some() || !sizes)
    }
}

/// Serves a command over `connection`.
pub(in super::super) async fn serve<T>(
    connection: T,
    protocol: &'static str,
    wanted: Wanted,
    ends: StreamEnds,
) where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (session, out) = session::open(connection);
    let mut input = Input {
        session,
        roles: Roles::default(),
        said: VecDeque::new(),
        sizes: BytesMut::new(),
    };
    let opened = tokio::time::timeout(OPENING, input.gather(&out, wanted, protocol)).await;
    if !matches!(opened, Ok(Ok(()))) {
        tracing::debug!(?opened, roles = ?input.roles, ?wanted, "a client did not open its streams");
        return;
    }
    let roles = input.roles;
    let mut output = Output {
        out,
        roles,
        protocol,
    };
    bridge(&mut input, &mut output, ends).await;
    drop(output);
    input.session.finish().await;
}

/// From the client.
struct Input<T> {
    session: Session<T>,
    roles: Roles,
    said: VecDeque<Said>,
    sizes: BytesMut,
}

impl<T: AsyncRead + AsyncWrite> Input<T> {
    /// Accepts streams until all are there that were announced.
    async fn gather(&mut self, out: &Out, wanted: Wanted, protocol: &str) -> Result<(), HungUp> {
        while !self.roles.complete(wanted, protocol) {
            match self.session.next().await.ok_or(HungUp)? {
                Event::Opened {
                    stream,
                    headers,
                    last,
                } => {
                    let name = header(&headers, "streamtype");
                    match self.roles.place(name) {
                        Some(place @ None) => {
                            *place = Some(stream);
                            out.accept(stream).await?;
                            if last {
                                self.take(stream, bytes::Bytes::new(), true);
                            }
                        }
                        _ => out.refuse(stream).await?,
                    }
                }
                Event::Data {
                    stream,
                    bytes,
                    last,
                } if self.said.len() < EARLY => self.take(stream, bytes, last),
                Event::Data { .. } => return Err(HungUp),
                Event::Reset { .. } => {}
            }
        }
        Ok(())
    }

    /// Notes what came on a stream.
    fn take(&mut self, stream: u32, bytes: bytes::Bytes, last: bool) {
        if self.roles.stdin == Some(stream) {
            if !bytes.is_empty() {
                self.said.push_back(Said::Stdin(bytes));
            }
            if last {
                self.said.push_back(Said::StdinClosed);
            }
        } else if self.roles.resize == Some(stream) {
            self.sizes.extend_from_slice(&bytes);
            while let Some(end) = self.sizes.iter().position(|byte| *byte == b'\n') {
                let line = self.sizes.split_to(end);
                self.sizes.advance(1);
                self.said.extend(size(&line).map(Said::Resize));
            }
            if self.sizes.len() > MOST_SIZE {
                self.sizes.clear();
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Send> Listen for Input<T> {
    async fn hear(&mut self) -> Option<Said> {
        loop {
            if let Some(said) = self.said.pop_front() {
                return Some(said);
            }
            match self.session.next().await? {
                Event::Data {
                    stream,
                    bytes,
                    last,
                } => self.take(stream, bytes, last),
                Event::Reset { stream } => self.take(stream, bytes::Bytes::new(), true),
                // It has all that it announced.
                Event::Opened { .. } => {}
            }
        }
    }
}

/// To the client.
struct Output {
    out: Out,
    roles: Roles,
    protocol: &'static str,
}

impl Speak for Output {
    async fn tell(&mut self, told: Told) -> Result<(), HungUp> {
        let (stream, bytes) = match told {
            Told::Stdout(bytes) => (self.roles.stdout, bytes),
            Told::Stderr(bytes) => (self.roles.stderr, bytes),
            Told::End(ended) => return self.end(&ended).await,
        };
        match stream {
            Some(stream) => self.out.data(stream, bytes).await,
            None => Ok(()),
        }
    }
}

impl Output {
    async fn end(&self, ended: &Result<i32, waggle_api::Status>) -> Result<(), HungUp> {
        let Roles {
            error,
            stdin,
            stdout,
            stderr,
            resize,
        } = self.roles;
        let words = match (self.protocol, ended) {
            (V4, ended) => outcome(ended).to_string(),
            (_, Ok(0)) => String::new(),
            (_, Ok(code)) => format!("command terminated with exit code {code}"),
            (_, Err(status)) => status.message.clone(),
        };
        if let (Some(error), false) = (error, words.is_empty()) {
            self.out.data(error, words.into()).await?;
        }
        for stream in [error, stdin, stdout, stderr, resize].into_iter().flatten() {
            self.out.end(stream).await?;
        }
        Ok(())
    }
}
