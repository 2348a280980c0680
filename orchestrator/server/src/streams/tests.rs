//! Streams through real HTTP and WebSocket clients on one side and an agent that speaks the node protocol on the
//! other.

use std::net::SocketAddr;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tonic::Streaming;
use waggle_wire::v1;
use waggle_wire::v1::node_client::NodeClient;
use waggle_wire::v1::open_stream::Request;
use waggle_wire::v1::stream_frame::Frame;

use super::{Streams, router};
use crate::sessions::fixture::{Agent, Cluster, soon};

/// The routes of this room on a loopback port.
pub(super) async fn serve(cluster: &Cluster) -> SocketAddr {
    let streams = Streams {
        objects: cluster.objects.clone(),
        leading: crate::leading::Leading::alone(cluster.sessions.clone()),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router(streams)).await });
    address
}

/// Sends a request; the answer's body has not been read.
pub(super) async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> http::Response<hyper::body::Incoming> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "test");
    let request = request.header("content-type", "application/json");
    let body = match body {
        Some(body) => http_body_util::Full::new(Bytes::from(body.to_string())).boxed(),
        None => Empty::new().boxed(),
    };
    soon(
        "an answer",
        sender.send_request(request.body(body).unwrap()),
    )
    .await
    .unwrap()
}

pub(super) async fn status(response: http::Response<hyper::body::Incoming>) -> (u16, String) {
    let code = response.status().as_u16();
    let body = soon("a body", response.into_body().collect())
        .await
        .unwrap()
        .to_bytes();
    let value: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(value["kind"], "Status", "{value}");
    (
        code,
        value["message"].as_str().unwrap_or_default().to_owned(),
    )
}

/// The agent's end of a stream.
pub(super) struct Served {
    pub(super) request: Request,
    to_server: mpsc::Sender<v1::StreamFrame>,
    from_server: Streaming<v1::StreamFrame>,
}

impl Served {
    /// Answers the next request for a stream.
    pub(super) async fn next(agent: &mut Agent) -> Self {
        let asked = agent
            .until("a request for a stream", |agent| {
                agent.requests.first().cloned()
            })
            .await;
        agent.requests.clear();
        let (to_server, frames) = mpsc::channel(16);
        to_server
            .send(v1::StreamFrame {
                frame: Some(Frame::Stream(asked.stream)),
            })
            .await
            .unwrap();
        let mut client = NodeClient::new(agent.channel.clone());
        let from_server = soon("a stream", client.stream(ReceiverStream::new(frames)))
            .await
            .unwrap()
            .into_inner();
        Self {
            request: asked.request.unwrap(),
            to_server,
            from_server,
        }
    }

    pub(super) async fn say(&self, frame: Frame) {
        self.to_server
            .send(v1::StreamFrame { frame: Some(frame) })
            .await
            .unwrap();
    }

    pub(super) async fn end(&self, exit_code: i32, fault: &str, reason: &str) {
        self.say(Frame::End(v1::StreamEnd {
            exit_code,
            fault: fault.into(),
            reason: reason.into(),
        }))
        .await;
    }

    /// The next frame; `None` when the server has ended the stream.
    pub(super) async fn hear(&mut self) -> Option<Frame> {
        soon("a frame", self.from_server.message())
            .await
            .ok()
            .flatten()?
            .frame
    }
}

pub(super) const POD: &str = "/api/v1/namespaces/shop/pods/web";

#[tokio::test]
async fn logs_are_passed_on_as_they_come() {
    let cluster = Cluster::start().await;
    let address = serve(&cluster).await;
    let mut agent = cluster.agent("node1").await;
    cluster.bound_pod("web", "node1").await;
    let path = format!("{POD}/log?follow=true&tailLines=5&timestamps=true&sinceSeconds=60");
    let (mut served, answer) =
        tokio::join!(Served::next(&mut agent), ask(address, "GET", &path, None));
    let Request::Logs(logs) = &served.request else {
        panic!("{:?}", served.request)
    };
    assert_eq!(
        (
            logs.container.as_str(),
            logs.follow,
            logs.tail_lines,
            logs.since_seconds
        ),
        ("main", true, 5, 60)
    );
    assert!(logs.timestamps && !logs.previous);
    assert_eq!(answer.status(), 200);
    let mut body = answer.into_body();
    for line in ["one\n", "two\n"] {
        served.say(Frame::Stdout(Bytes::from(line))).await;
        let frame = soon("a line", body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), line);
    }
    served.end(0, "", "").await;
    assert!(soon("the end", body.frame()).await.is_none());
    assert!(served.hear().await.is_none());
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_stream() {
    let cluster = Cluster::start().await;
    let address = serve(&cluster).await;
    let mut agent = cluster.agent("node1").await;
    cluster.bound_pod("web", "node1").await;
    let path = format!("{POD}/log?follow=true");
    let (mut served, answer) =
        tokio::join!(Served::next(&mut agent), ask(address, "GET", &path, None));
    drop(answer);
    assert!(served.hear().await.is_none());
}

#[tokio::test]
async fn what_cannot_be_streamed_is_said_clearly() {
    let cluster = Cluster::start().await;
    let address = serve(&cluster).await;
    let check = async |path: &str, expect: u16, words: &str| {
        let (code, message) = status(ask(address, "GET", path, None).await).await;
        assert_eq!(code, expect, "{path}: {message}");
        assert!(message.contains(words), "{path}: {message}");
    };
    cluster
        .create(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "idle"},
                       "spec": {"containers": [{"name": "main", "image": "web:1"}]}}))
        .await;
    cluster.bound_pod("web", "node1").await;
    check(
        "/api/v1/namespaces/shop/pods/none/log",
        404,
        "\"none\" not found",
    )
    .await;
    check(
        "/api/v1/namespaces/shop/pods/idle/log",
        400,
        "does not have a host assigned",
    )
    .await;
    check(
        &format!("{POD}/log"),
        503,
        "node \"node1\" is not connected",
    )
    .await;
    check(
        &format!("{POD}/log?container=x"),
        400,
        "container x is not valid for pod web",
    )
    .await;
    check(&format!("{POD}/log?tailLines=-1"), 400, "tailLines").await;
    check(&format!("{POD}/log?follow=perhaps"), 400, "perhaps").await;
    check(
        &format!("{POD}/exec?command=ls&stdout=true"),
        400,
        "WebSocket or to SPDY/3.1",
    )
    .await;
    let mut agent = cluster.agent("node1").await;
    let path = format!("{POD}/log?previous=true");
    let (served, answer) = tokio::join!(
        async {
            let served = Served::next(&mut agent).await;
            served
                .end(
                    0,
                    "previous terminated container \"main\" not found",
                    "BadRequest",
                )
                .await;
            served
        },
        ask(address, "GET", &path, None)
    );
    let (code, message) = status(answer).await;
    assert_eq!(
        (code, message.as_str()),
        (400, "previous terminated container \"main\" not found")
    );
    drop(served);
}

pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub(super) async fn dial(address: SocketAddr, path: &str, protocol: &str) -> (Socket, String) {
    let mut request = format!("ws://{address}{path}")
        .into_client_request()
        .unwrap();
    request
        .headers_mut()
        .insert("sec-websocket-protocol", protocol.parse().unwrap());
    let (socket, answer) = soon("an upgrade", connect_async(request)).await.unwrap();
    let chosen = answer.headers()["sec-websocket-protocol"]
        .to_str()
        .unwrap()
        .to_owned();
    (socket, chosen)
}

async fn hear(socket: &mut Socket) -> (u8, Bytes) {
    loop {
        let message = soon("a message", socket.next())
            .await
            .expect("more messages")
            .unwrap();
        if let Message::Binary(bytes) = message {
            return (bytes[0], bytes.slice(1..));
        }
    }
}

#[tokio::test]
async fn a_command_is_run_with_input_output_and_exit_code() {
    let cluster = Cluster::start().await;
    let address = serve(&cluster).await;
    let mut agent = cluster.agent("node1").await;
    cluster.bound_pod("web", "node1").await;
    let path = format!(
        "{POD}/exec?command=sh&command=-c&command=cat%3B%20exit%203&stdin=true&stdout=true&stderr=true"
    );
    let protocols = "v5.channel.k8s.io, v4.channel.k8s.io, v3.channel.k8s.io";
    let (mut served, (mut socket, chosen)) =
        tokio::join!(Served::next(&mut agent), dial(address, &path, protocols));
    assert_eq!(chosen, "v5.channel.k8s.io");
    let Request::Exec(exec) = &served.request else {
        panic!("{:?}", served.request)
    };
    assert_eq!(exec.command, ["sh", "-c", "cat; exit 3"]);
    assert!(exec.stdin && exec.stdout && exec.stderr && !exec.tty);
    socket
        .send(Message::binary(&b"\x00hello"[..]))
        .await
        .unwrap();
    assert_eq!(
        served.hear().await,
        Some(Frame::Stdin(Bytes::from_static(b"hello")))
    );
    socket
        .send(Message::binary(&b"\x04{\"Width\":100,\"Height\":30}"[..]))
        .await
        .unwrap();
    assert_eq!(
        served.hear().await,
        Some(Frame::Resize(v1::Resize {
            width: 100,
            height: 30
        }))
    );
    socket
        .send(Message::binary(&b"\xff\x00"[..]))
        .await
        .unwrap();
    assert_eq!(served.hear().await, Some(Frame::StdinClosed(true)));
    served.say(Frame::Stdout(Bytes::from_static(b"out"))).await;
    assert_eq!(hear(&mut socket).await, (1, Bytes::from_static(b"out")));
    served.say(Frame::Stderr(Bytes::from_static(b"err"))).await;
    assert_eq!(hear(&mut socket).await, (2, Bytes::from_static(b"err")));
    served.end(3, "", "").await;
    let (channel, bytes) = hear(&mut socket).await;
    let ended: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(
        (channel, ended["reason"].as_str()),
        (3, Some("NonZeroExitCode"))
    );
    assert_eq!(ended["details"]["causes"][0]["message"], "3");
    let closed = soon("a close", socket.next()).await.unwrap().unwrap();
    assert!(closed.is_close());
}

#[tokio::test]
async fn a_command_that_cannot_start_is_a_status_and_a_lost_client_is_noticed() {
    let cluster = Cluster::start().await;
    let address = serve(&cluster).await;
    let mut agent = cluster.agent("node1").await;
    cluster.bound_pod("web", "node1").await;
    let path = format!("{POD}/exec?command=nothing&stdout=true&tty=true&stderr=true");
    let (served, (mut socket, chosen)) = tokio::join!(
        Served::next(&mut agent),
        dial(address, &path, "v4.channel.k8s.io")
    );
    assert_eq!(chosen, "v4.channel.k8s.io");
    let Request::Exec(exec) = &served.request else {
        panic!("{:?}", served.request)
    };
    assert!(exec.tty && !exec.stderr, "a terminal has one output");
    served
        .end(0, "exec \"nothing\": no such file", "InternalError")
        .await;
    let (channel, bytes) = hear(&mut socket).await;
    let ended: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(
        (channel, ended["reason"].as_str()),
        (3, Some("InternalError"))
    );
    assert!(ended["message"].as_str().unwrap().contains("no such file"));
    let (mut served, (socket, _)) = tokio::join!(
        Served::next(&mut agent),
        dial(address, &path, "v5.channel.k8s.io")
    );
    drop(socket);
    assert!(served.hear().await.is_none());
}

#[tokio::test]
async fn ports_are_forwarded_each_on_its_channels() {
    let cluster = Cluster::start().await;
    let address = serve(&cluster).await;
    let mut agent = cluster.agent("node1").await;
    cluster.bound_pod("web", "node1").await;
    let path = format!("{POD}/portforward?ports=8080,9090");
    let ((mut first, second), (mut socket, _)) = tokio::join!(
        async {
            (
                Served::next(&mut agent).await,
                Served::next(&mut agent).await,
            )
        },
        dial(address, &path, "v4.channel.k8s.io")
    );
    let Request::PortForward(request) = &first.request else {
        panic!("{:?}", first.request)
    };
    assert_eq!(request.port, 8080);
    for (channel, port) in [(0, 8080u16), (1, 8080), (2, 9090), (3, 9090)] {
        assert_eq!(
            hear(&mut socket).await,
            (channel, Bytes::copy_from_slice(&port.to_le_bytes()))
        );
    }
    socket
        .send(Message::binary(&b"\x00ping"[..]))
        .await
        .unwrap();
    assert_eq!(
        first.hear().await,
        Some(Frame::Stdin(Bytes::from_static(b"ping")))
    );
    first.say(Frame::Stdout(Bytes::from_static(b"pong"))).await;
    assert_eq!(hear(&mut socket).await, (0, Bytes::from_static(b"pong")));
    second
        .end(0, "nothing listens on port 9090", "InternalError")
        .await;
    let (channel, bytes) = hear(&mut socket).await;
    assert_eq!(channel, 3);
    assert!(String::from_utf8_lossy(&bytes).contains("nothing listens on port 9090"));
    first.end(0, "", "").await;
    assert!(
        soon("a close", socket.next())
            .await
            .unwrap()
            .unwrap()
            .is_close()
    );
}

#[tokio::test]
async fn the_server_reaches_a_port_of_a_pod_itself() {
    let cluster = Cluster::start().await;
    let streams = Streams {
        objects: cluster.objects.clone(),
        leading: crate::leading::Leading::alone(cluster.sessions.clone()),
    };
    let mut agent = cluster.agent("node1").await;
    cluster.bound_pod("web", "node1").await;
    let connecting = super::tunnel::connect(&streams, "shop", "web", 8443);
    let (mut served, connected) = tokio::join!(Served::next(&mut agent), connecting);
    let mut connected = connected.unwrap();
    let Request::PortForward(request) = &served.request else {
        panic!("{:?}", served.request)
    };
    assert_eq!(request.port, 8443);
    connected.write_all(b"ping").await.unwrap();
    let ping = Frame::Stdin(Bytes::from_static(b"ping"));
    assert_eq!(served.hear().await, Some(ping));
    served.say(Frame::Stdout(Bytes::from_static(b"pong"))).await;
    served.end(0, "", "").await;
    let mut heard = String::new();
    connected.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "pong");
    drop(connected);
    assert_eq!(served.hear().await, Some(Frame::StdinClosed(true)));
}

#[tokio::test]
async fn a_pod_answers_what_is_asked_below_its_proxy() {
    let cluster = Cluster::start().await;
    let address = serve(&cluster).await;
    let mut agent = cluster.agent("node1").await;
    cluster.bound_pod("web", "node1").await;
    let moved = ask(address, "GET", &format!("{POD}/proxy?a=b"), None).await;
    assert_eq!(moved.status(), 301);
    assert_eq!(moved.headers()["location"], format!("{POD}/proxy/?a=b"));
    let path = POD.replace("/web", "/web:8080") + "/proxy/page?a=b";
    let asking = ask(address, "GET", &path, None);
    let answering = async {
        let mut served = Served::next(&mut agent).await;
        let Request::PortForward(request) = &served.request else {
            panic!("{:?}", served.request)
        };
        assert_eq!(request.port, 8080);
        let Some(Frame::Stdin(heard)) = served.hear().await else {
            panic!("no request")
        };
        let heard = String::from_utf8_lossy(&heard).into_owned();
        assert!(heard.starts_with("GET /page?a=b HTTP/1.1\r\n"), "{heard}");
        let said = "HTTP/1.1 302 Found\r\nlocation: /b\r\ncontent-length: 4\r\n\r\npage";
        served
            .say(Frame::Stdout(Bytes::from_static(said.as_bytes())))
            .await;
        served
    };
    let (answer, _served) = tokio::join!(asking, answering);
    assert_eq!(answer.status(), 302);
    let base = POD.replace("/web", "/web:8080");
    assert_eq!(answer.headers()["location"], format!("{base}/proxy/b"));
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "page");
    let (code, message) = status(ask(address, "GET", &format!("{POD}x/proxy/"), None).await).await;
    assert_eq!(code, 404, "{message}");
    let service = "/api/v1/namespaces/shop/services/none/proxy/";
    assert_eq!(ask(address, "GET", service, None).await.status(), 404);
}
