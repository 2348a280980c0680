//! A whole server over real sockets and TLS: who gets in, what survives a restart, how it ends.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use waggle_model::NodeName;
use waggle_server::pki::Pki;
use waggle_server::{ServerError, ServerOptions, run};

const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    stop: CancellationToken,
    task: JoinHandle<Result<(), ServerError>>,
    address: SocketAddr,
}

fn options(data: &Path) -> ServerOptions {
    let any = || "127.0.0.1:0".parse().unwrap();
    ServerOptions::new(data.to_owned(), vec![any()], vec![any()])
}

impl Server {
    async fn start(data: &Path) -> Self {
        let stop = CancellationToken::new();
        let kubeconfig = data.join("admin.kubeconfig");
        let _ = std::fs::remove_file(&kubeconfig);
        let task = tokio::spawn(run(options(data), stop.clone()));
        let deadline = Instant::now() + PATIENCE;
        let address = loop {
            assert!(!task.is_finished(), "{:?}", task.await);
            let text = std::fs::read_to_string(&kubeconfig).unwrap_or_default();
            let url = text.lines().find_map(|line| {
                line.trim()
                    .strip_prefix("server: https://")
                    .map(str::to_owned)
            });
            if let Some(url) = url {
                break url.parse().unwrap();
            }
            assert!(Instant::now() < deadline, "the server does not come up");
            tokio::task::yield_now().await;
        };
        Self {
            stop,
            task,
            address,
        }
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("the server does not end")
            .unwrap()
            .unwrap();
    }
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A TLS connection that trusts the cluster's authority, with a client certificate or without.
fn connect(address: SocketAddr, data: &Path, certificate: Option<(&str, &str)>) -> Tls {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(data.join("ca.crt")).unwrap())
        .unwrap();
    let builder =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
    let config = match certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            builder
                .with_client_auth_cert(
                    chain,
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap()
        }
    };
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    StreamOwned::new(connection, socket)
}

/// One request on a connection of its own; code and body.
fn ask(mut tls: Tls, method: &str, path: &str, body: &str) -> (u16, String) {
    let length = body.len();
    write!(
        tls,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = Vec::new();
    let _ = tls.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let code = answer
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    (code, answer)
}

async fn admin(
    server: &Server,
    data: &Path,
    method: &'static str,
    path: &'static str,
    body: &'static str,
) -> (u16, String) {
    let read = |name: &str| std::fs::read_to_string(data.join(name)).unwrap();
    let pair = (read("admin.crt"), read("admin.key"));
    let (address, data) = (server.address, data.to_owned());
    let task = move || {
        ask(
            connect(address, &data, Some((&pair.0, &pair.1))),
            method,
            path,
            body,
        )
    };
    tokio::task::spawn_blocking(task).await.unwrap()
}

const CONFIGS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("server");
    let server = Server::start(&data).await;
    let config = "{\"metadata\": {\"name\": \"kept\"}}";
    assert_eq!(admin(&server, &data, "POST", CONFIGS, config).await.0, 201);
    server.end().await;
    let authority = std::fs::read(data.join("ca.crt")).unwrap();
    let server = Server::start(&data).await;
    let (code, answer) = admin(
        &server,
        &data,
        "GET",
        "/api/v1/namespaces/default/configmaps/kept",
        "",
    )
    .await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(authority, std::fs::read(data.join("ca.crt")).unwrap());
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_decide_who_may_what() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("server");
    let server = Server::start(&data).await;
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::new(Vec::new())
        .unwrap()
        .serialize_request(&key)
        .unwrap()
        .pem()
        .unwrap();
    let now = jiff::Timestamp::now();
    let sign = |data: &Path| {
        let pki = Pki::open(data, &[], now).unwrap();
        pki.sign_node(&NodeName::try_from("node1").unwrap(), &request, now)
            .unwrap()
    };
    let ours = sign(&data);
    let strangers = sign(&folder.path().join("another-cluster"));
    let (address, key_pem) = (server.address, key.serialize_pem());
    let ended = tokio::task::spawn_blocking(move || {
        let node = || connect(address, &data, Some((&ours, &key_pem)));
        assert_eq!(ask(node(), "GET", "/api/v1/services", "").0, 200);
        assert_eq!(ask(node(), "GET", CONFIGS, "").0, 403);
        let (code, answer) = ask(node(), "POST", CONFIGS, "{\"metadata\": {\"name\": \"x\"}}");
        assert!(
            code == 403 && answer.contains("system:node:node1"),
            "{answer}"
        );
        assert_eq!(ask(node(), "GET", "/api/v1/secrets", "").0, 403);
        let nobody = || connect(address, &data, None);
        assert_eq!(ask(nobody(), "GET", "/readyz", "").0, 200);
        assert_eq!(ask(nobody(), "GET", CONFIGS, "").0, 401);
        // A certificate of another cluster does not get through the handshake.
        let mut stranger = connect(address, &data, Some((&strangers, &key_pem)));
        let sent = stranger.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut answer = [0; 16];
        assert!(sent.is_err() || stranger.read_exact(&mut answer).is_err());
    })
    .await;
    ended.unwrap();
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_watch_does_not_hold_up_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("server");
    let server = Server::start(&data).await;
    let read = |name: &str| std::fs::read_to_string(data.join(name)).unwrap();
    let (certificate, key) = (read("admin.crt"), read("admin.key"));
    let mut watch = connect(server.address, &data, Some((&certificate, &key)));
    let (started, seen) = tokio::sync::oneshot::channel();
    let watcher = std::thread::spawn(move || {
        write!(
            watch,
            "GET /api/v1/namespaces?watch=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        .unwrap();
        let mut lines = BufReader::new(watch).lines();
        lines
            .by_ref()
            .map_while(Result::ok)
            .find(|line| line.contains("kube-system"))
            .unwrap();
        started.send(()).unwrap();
        // To the end of the body, which the server makes when it ends.
        lines.map_while(Result::ok).last()
    });
    seen.await.unwrap();
    server.end().await;
    assert_eq!(
        watcher.join().unwrap().as_deref(),
        Some(""),
        "the body was cut off instead of ended"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_a_server_from_starting_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("server");
    let server = Server::start(&data).await;
    let second = run(options(&data), CancellationToken::new())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        second.contains("store.redb") && second.contains("in use"),
        "{second}"
    );
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut options = options(&folder.path().join("other"));
    options.node_listen[0].address = taken.local_addr().unwrap();
    let error = run(options, CancellationToken::new())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&taken.local_addr().unwrap().to_string()) && error.contains("--node-listen"),
        "{error}"
    );
    server.end().await;
}
