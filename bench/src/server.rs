//! A server process, its memory, and clients that speak HTTP/2 to it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const PATIENCE: Duration = Duration::from_secs(30);

/// A process that is killed when dropped.
pub struct Running(Child);

impl Running {
    /// Starts it with its output in `log`.
    ///
    /// # Errors
    /// When there is no such command, or `log` can't be written.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let log = std::fs::File::create(log)?;
        let output = log.try_clone()?;
        let command = command.stdin(Stdio::null()).stdout(output).stderr(log);
        let name = command.get_program().to_owned();
        let child = command.spawn();
        Ok(Self(
            child.with_context(|| format!("start {}", name.display()))?,
        ))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port of loopback that nobody has.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// A server that runs until this is dropped.
pub struct Server {
    running: Running,
    /// What it and its store are in.
    pub folder: tempfile::TempDir,
    /// Where it is and who we are.
    pub door: Door,
}

/// Where a server is asked, and by whom.
#[derive(Clone)]
pub struct Door {
    port: u16,
    token: Arc<str>,
    tls: TlsConnector,
}

impl Server {
    /// A fresh one in a folder of its own below `folder`.
    ///
    /// # Errors
    /// When it can't be started or does not come up.
    pub async fn start(binary: &Path, folder: &Path) -> Result<Self> {
        Self::start_with(binary, folder, &[]).await
    }

    /// The same, with further arguments.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn start_with(binary: &Path, folder: &Path, more: &[&str]) -> Result<Self> {
        // For all TLS of this process; an error says that it is there already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let folder = tempfile::tempdir_in(folder)?;
        let (port, data) = (free_port()?, folder.path().join("server"));
        let mut command = Command::new(binary);
        command.arg("server").arg("--data").arg(&data);
        command.args(["--listen", &format!("127.0.0.1:{port}")]);
        command.args(more);
        let running = Running::start(&mut command, &folder.path().join("server.log"))?;
        let until = Instant::now() + PATIENCE;
        while !data.join("admin.kubeconfig").exists() {
            ensure!(Instant::now() < until, "the server does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let token = std::fs::read_to_string(data.join("admin-token"))?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(data.join("ca.crt"))?)?;
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let door = Door {
            port,
            token: token.trim().into(),
            tls: TlsConnector::from(Arc::new(config)),
        };
        Ok(Self {
            running,
            folder,
            door,
        })
    }

    /// A figure of the process in MiB: `VmRSS` now, `VmHWM` at most.
    ///
    /// # Errors
    /// When it runs no more.
    pub fn memory(&self, field: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.running.0.id());
        let text = std::fs::read_to_string(path)?;
        let line = text.lines().find(|line| line.starts_with(field));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(kib.with_context(|| format!("no {field}"))?.parse::<u64>()? >> 10)
    }

    /// From now on `VmHWM` is of what comes.
    ///
    /// # Errors
    /// When it runs no more.
    pub fn forget_peak(&self) -> Result<()> {
        let path = format!("/proc/{}/clear_refs", self.running.0.id());
        std::fs::write(path, "5").context("reset the peak of memory")
    }

    /// Seconds of processor that it has used.
    ///
    /// # Errors
    /// When it runs no more.
    #[expect(clippy::cast_precision_loss, reason = "seconds of a short run")]
    pub fn busy(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.running.0.id());
        let text = std::fs::read_to_string(path)?;
        let (_, after) = text.rsplit_once(')').context("no name")?;
        let ticks = after.split_whitespace().skip(11).take(2);
        let ticks = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        Ok(ticks as f64 / 100.0)
    }
}

/// One connection.
#[derive(Clone)]
pub struct Client {
    door: Door,
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    /// A new connection.
    ///
    /// # Errors
    /// When nobody listens, or it is somebody else.
    pub async fn connect(door: &Door) -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, door.port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("127.0.0.1")?;
        let stream = door.tls.connect(name, stream).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(connection);
        let door = door.clone();
        Ok(Self { door, sender })
    }

    /// Asks, and gives back the body to read.
    ///
    /// # Errors
    /// What the server says, or how asking failed.
    pub async fn open(&self, method: &str, path: &str, body: &Value) -> Result<Incoming> {
        let body = match body {
            Value::Null => Bytes::new(),
            body => body.to_string().into(),
        };
        let request = http::Request::builder()
            .method(method)
            .uri(format!("https://127.0.0.1:{}{path}", self.door.port))
            .header("authorization", format!("Bearer {}", self.door.token))
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        let answer = self.sender.clone().send_request(request).await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer.into_body());
        }
        let text = answer.into_body().collect().await?.to_bytes();
        anyhow::bail!(
            "{method} {path}: {status} {}",
            String::from_utf8_lossy(&text)
        )
    }

    /// The object, or list of objects, at a path.
    ///
    /// # Errors
    /// What the server says, or how asking failed.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let body = self.open("GET", path, &Value::Null).await?;
        Ok(serde_json::from_slice(&body.collect().await?.to_bytes())?)
    }

    /// Asks, and reads the answer to its end.
    ///
    /// # Errors
    /// As [`Client::open`].
    pub async fn ask(&self, method: &str, path: &str, body: &Value) -> Result<()> {
        self.open(method, path, body).await?.collect().await?;
        Ok(())
    }
}
