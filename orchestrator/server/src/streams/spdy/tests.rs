//! SPDY through a real upgrade, with a client that frames as Go's does.

use std::net::SocketAddr;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::codec::Decoder as _;
use waggle_wire::v1;
use waggle_wire::v1::open_stream::Request;
use waggle_wire::v1::stream_frame::Frame as Said;

use super::frame::{Decoder, Encoder, Frame};
use super::session;
use crate::sessions::fixture::{Cluster, soon};
use crate::streams::tests::{POD, Served, dial, serve, status};

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// A client after the upgrade.
struct Client {
    connection: Box<dyn Connection>,
    encoder: Encoder,
    decoder: Decoder,
    source: BytesMut,
    newest: u32,
}

impl Client {
    fn over(connection: impl Connection + 'static) -> Self {
        Self {
            connection: Box::new(connection),
            encoder: Encoder::new(),
            decoder: Decoder::new(),
            source: BytesMut::new(),
            newest: 0,
        }
    }

    async fn say(&mut self, frame: Frame) {
        let mut wire = BytesMut::new();
        self.encoder.encode(&frame, &mut wire);
        self.connection.write_all(&wire).await.unwrap();
    }

    async fn data(&mut self, stream: u32, bytes: &'static [u8], last: bool) {
        let bytes = Bytes::from_static(bytes);
        self.say(Frame::Data {
            stream,
            bytes,
            last,
        })
        .await;
    }

    /// The next frame; `None` when the server has ended the connection.
    async fn hear(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.source).unwrap() {
                return Some(frame);
            }
            let mut buffer = [0; 4096];
            let read = tokio::io::AsyncReadExt::read(&mut self.connection, &mut buffer);
            match soon("bytes", read).await.unwrap() {
                0 => return None,
                count => self.source.put_slice(&buffer[..count]),
            }
        }
    }

    /// Opens a stream, as Go's client does: it waits for the reply.
    async fn open(&mut self, headers: &[(&str, &str)]) -> Result<u32, u32> {
        let stream = self.newest + 1;
        self.newest += 2;
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.say(Frame::SynStream {
            stream,
            headers: headers.collect(),
            last: false,
        })
        .await;
        match self.hear().await {
            Some(Frame::SynReply {
                stream: replied, ..
            }) if replied == stream => Ok(stream),
            Some(Frame::RstStream {
                stream: refused,
                status,
            }) if refused == stream => Err(status),
            other => panic!("{other:?}"),
        }
    }
}

/// Asks for an upgrade; gives the answer and the connection that it agreed to.
async fn upgrade(
    address: SocketAddr,
    path: &str,
    protocols: &[&str],
) -> (http::Response<hyper::body::Incoming>, Option<Client>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let mut request = http::Request::post(path)
        .header("host", "test")
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1");
    for protocol in protocols {
        request = request.header("x-stream-protocol-version", *protocol);
    }
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let mut answer = soon("an answer", sender.send_request(request))
        .await
        .unwrap();
    if answer.status() != 101 {
        return (answer, None);
    }
    let upgraded = hyper::upgrade::on(&mut answer).await.unwrap();
    (answer, Some(Client::over(TokioIo::new(upgraded))))
}

#[tokio::test]
async fn a_command_runs_over_spdy() {
    let cluster = Cluster::start().await;
    let address = serve(&cluster).await;
    let mut agent = cluster.agent("node1").await;
    cluster.bound_pod("web", "node1").await;
    let path = format!("{POD}/exec?command=sh&stdin=true&stdout=true&stderr=true");
    let protocols = ["v4.channel.k8s.io", "v3.channel.k8s.io", "channel.k8s.io"];
    let (mut served, (answer, client)) = tokio::join!(
        Served::next(&mut agent),
        upgrade(address, &path, &protocols)
    );
    assert_eq!(answer.headers()["upgrade"], "SPDY/3.1");
    assert_eq!(
        answer.headers()["x-stream-protocol-version"],
        "v4.channel.k8s.io"
    );
    let mut client = client.unwrap();
    let error = client.open(&[("streamtype", "error")]).await.unwrap();
    let stdin = client.open(&[("streamtype", "stdin")]).await.unwrap();
    assert_eq!(client.open(&[("streamtype", "stdin")]).await, Err(3));
    assert_eq!(client.open(&[("streamtype", "what")]).await, Err(3));
    let stdout = client.open(&[("streamtype", "stdout")]).await.unwrap();
    client.data(stdin, b"early ", false).await;
    let stderr = client.open(&[("streamtype", "stderr")]).await.unwrap();
    client.data(stdin, b"hello", true).await;
    for expect in [
        Said::Stdin("early ".into()),
        Said::Stdin("hello".into()),
        Said::StdinClosed(true),
    ] {
        assert_eq!(served.hear().await, Some(expect));
    }
    client.say(Frame::Ping(7)).await;
    assert_eq!(client.hear().await, Some(Frame::Ping(7)));
    served.say(Said::Stdout("out".into())).await;
    served.say(Said::Stderr("err".into())).await;
    served.end(3, "", "").await;
    let heard = |stream, bytes: &'static str, last| {
        Some(Frame::Data {
            stream,
            bytes: bytes.into(),
            last,
        })
    };
    assert_eq!(client.hear().await, heard(stdout, "out", false));
    assert_eq!(client.hear().await, heard(stderr, "err", false));
    let Some(Frame::Data {
        stream,
        bytes,
        last: false,
    }) = client.hear().await
    else {
        panic!("no status")
    };
    let ended: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(
        (stream, &ended["details"]["causes"][0]["message"]),
        (error, &"3".into())
    );
    for stream in [error, stdin, stdout, stderr] {
        assert_eq!(client.hear().await, heard(stream, "", true));
    }
    assert_eq!(client.hear().await, None);
}

#[tokio::test]
async fn a_terminal_has_sizes_and_older_protocols_end_with_words() {
    let cluster = Cluster::start().await;
    let address = serve(&cluster).await;
    let mut agent = cluster.agent("node1").await;
    cluster.bound_pod("web", "node1").await;
    let path = format!("{POD}/exec?command=sh&stdout=true&stderr=true&tty=true");
    let (mut served, (_, client)) = tokio::join!(
        Served::next(&mut agent),
        upgrade(address, &path, &["v3.channel.k8s.io"])
    );
    let mut client = client.unwrap();
    let error = client.open(&[("streamtype", "error")]).await.unwrap();
    client.open(&[("streamtype", "stdout")]).await.unwrap();
    let resize = client.open(&[("streamtype", "resize")]).await.unwrap();
    client.data(resize, b"{\"Width\":100,\"Hei", false).await;
    client.data(resize, b"ght\":30}\n", false).await;
    let size = v1::Resize {
        width: 100,
        height: 30,
    };
    assert_eq!(served.hear().await, Some(Said::Resize(size)));
    served.end(2, "", "").await;
    let words = Frame::Data {
        stream: error,
        bytes: "command terminated with exit code 2".into(),
        last: false,
    };
    assert_eq!(client.hear().await, Some(words));
    // A client that goes away is noticed.
    let (mut served, (_, client)) = tokio::join!(
        Served::next(&mut agent),
        upgrade(address, &path, &["v4.channel.k8s.io"])
    );
    drop(client);
    assert_eq!(served.hear().await, None);
}

#[tokio::test]
async fn what_cannot_be_upgraded_is_said_clearly() {
    let cluster = Cluster::start().await;
    let address = serve(&cluster).await;
    cluster.bound_pod("web", "node1").await;
    let path = format!("{POD}/exec?command=sh&stdout=true");
    let (answer, _) = upgrade(address, &path, &["v9.channel.k8s.io"]).await;
    let known: Vec<_> = answer
        .headers()
        .get_all("x-accepted-stream-protocol-versions")
        .iter()
        .collect();
    assert_eq!(known[0], "v4.channel.k8s.io");
    let (code, message) = status(answer).await;
    assert_eq!(code, 403);
    assert!(
        message.contains("client supports [v9.channel.k8s.io]"),
        "{message}"
    );
    let (answer, _) = upgrade(address, &path, &["v4.channel.k8s.io"]).await;
    let (code, message) = status(answer).await;
    assert_eq!(code, 503, "{message}");
    let (answer, _) = upgrade(address, "/api/v1/namespaces/shop/pods/no/portforward", &[]).await;
    assert_eq!(status(answer).await.0, 404);
}

/// Two connections to ports of a pod: one that talks, one that is refused.
async fn forwards(
    cluster: &Cluster,
    agent: &mut crate::sessions::fixture::Agent,
    mut client: Client,
) {
    let pair = |kind, port, request| [("streamtype", kind), ("port", port), ("requestid", request)];
    assert_eq!(
        client.open(&pair("data", "8080", "9")).await,
        Err(3),
        "its error stream comes first"
    );
    assert_eq!(client.open(&pair("error", "http", "9")).await, Err(3));
    let error = client.open(&pair("error", "8080", "0")).await.unwrap();
    client.data(error, b"", true).await;
    let data = client.open(&pair("data", "8080", "0")).await.unwrap();
    let mut served = Served::next(agent).await;
    let Request::PortForward(request) = &served.request else {
        panic!("{:?}", served.request)
    };
    assert_eq!(
        (request.port, request.pod.as_ref().unwrap().name.as_str()),
        (8080, "web")
    );
    client.data(data, b"ping", true).await;
    assert_eq!(served.hear().await, Some(Said::Stdin("ping".into())));
    assert_eq!(served.hear().await, Some(Said::StdinClosed(true)));

    let refused = client.open(&pair("error", "9090", "1")).await.unwrap();
    let closed = client.open(&pair("data", "9090", "1")).await.unwrap();
    let second = Served::next(agent).await;
    second
        .end(0, "nothing answers on port 9090", "InternalError")
        .await;
    let Some(Frame::Data { stream, bytes, .. }) = client.hear().await else {
        panic!("no words")
    };
    let uid = &cluster.pod("web").unwrap().uid;
    let words = format!(
        "error forwarding port 9090 to pod web, uid {uid}: Internal error occurred: nothing answers on port 9090"
    );
    assert_eq!((stream, bytes), (refused, words.into()));
    let end = |stream| {
        Some(Frame::Data {
            stream,
            bytes: Bytes::new(),
            last: true,
        })
    };
    assert_eq!(
        (client.hear().await, client.hear().await),
        (end(refused), end(closed))
    );

    served.say(Said::Stdout("pong".into())).await;
    served.end(0, "", "").await;
    let pong = Frame::Data {
        stream: data,
        bytes: "pong".into(),
        last: false,
    };
    assert_eq!(client.hear().await, Some(pong));
    assert_eq!(
        (client.hear().await, client.hear().await),
        (end(error), end(data))
    );

    // Of a connection that the client gives up, and of all when it goes away, the node hears.
    for reset in [true, false] {
        let request = if reset { "2" } else { "3" };
        client.open(&pair("error", "8080", request)).await.unwrap();
        let data = client.open(&pair("data", "8080", request)).await.unwrap();
        let mut served = Served::next(agent).await;
        if reset {
            client
                .say(Frame::RstStream {
                    stream: data,
                    status: 5,
                })
                .await;
            assert_eq!(served.hear().await, None);
            let ends = (client.hear().await, client.hear().await);
            assert_eq!(ends.1, end(data));
        } else {
            client.connection.shutdown().await.unwrap();
            assert_eq!(served.hear().await, None);
        }
    }
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy() {
    let cluster = Cluster::start().await;
    let address = serve(&cluster).await;
    let mut agent = cluster.agent("node1").await;
    cluster.bound_pod("web", "node1").await;
    let path = format!("{POD}/portforward");
    let (answer, client) = upgrade(address, &path, &["portforward.k8s.io"]).await;
    assert_eq!(
        answer.headers()["x-stream-protocol-version"],
        "portforward.k8s.io"
    );
    forwards(&cluster, &mut agent, client.unwrap()).await;
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy_in_a_web_socket() {
    let cluster = Cluster::start().await;
    let address = serve(&cluster).await;
    let mut agent = cluster.agent("node1").await;
    cluster.bound_pod("web", "node1").await;
    let (socket, chosen) = dial(address, &format!("{POD}/portforward"), super::TUNNEL).await;
    assert_eq!(chosen, "SPDY/3.1+portforward.k8s.io");
    forwards(&cluster, &mut agent, Client::over(tunneled(socket))).await;
}

/// The bytes of a socket's messages.
fn tunneled(socket: crate::streams::tests::Socket) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(4096);
    let (mut sink, mut stream) = socket.split();
    let (mut read, mut write) = tokio::io::split(theirs);
    tokio::spawn(async move {
        while let Some(Ok(Message::Binary(bytes))) = stream.next().await {
            write.write_all(&bytes).await.unwrap();
        }
        let _ = write.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buffer = [0; 1000];
        while let Ok(count @ 1..) = tokio::io::AsyncReadExt::read(&mut read, &mut buffer).await {
            let bytes = Bytes::copy_from_slice(&buffer[..count]);
            sink.send(Message::Binary(bytes)).await.unwrap();
        }
        let _ = sink.close().await;
    });
    ours
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_session_survives_garbage(bytes in prop::collection::vec(any::<u8>(), 0..2000), control in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ours, mut theirs) = tokio::io::duplex(1 << 16);
            let (mut session, _out) = session::open(ours);
            if control {
                theirs.write_all(&[0x80, 3, 0, 1, 0, 0, 4, 0]).await.unwrap();
            }
            theirs.write_all(&bytes).await.unwrap();
            theirs.shutdown().await.unwrap();
            while soon("the end", session.next()).await.is_some() {}
        });
    }
}
