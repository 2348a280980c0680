//! The sample application's web front: answers over HTTP and UDP with its version and pod name, and counts visits in
//! redis, which it finds by its DNS name.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// How long redis may take to answer before a request goes on without it.
const REDIS_PATIENCE: Duration = Duration::from_millis(500);

struct Front {
    version: String,
    pod: String,
    redis: Option<Redis>,
}

/// One connection to redis, kept open and made anew after a failure.
struct Redis {
    address: String,
    connection: Mutex<Option<BufReader<TcpStream>>>,
}

fn main() -> Result<()> {
    // One thread: a small process beside thousands of others.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve())
}

async fn serve() -> Result<()> {
    let setting = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let port: u16 = setting("PORT")
        .unwrap_or_else(|| "8080".into())
        .parse()
        .context("PORT")?;
    let front = Arc::new(Front {
        version: setting("VERSION").unwrap_or_else(|| "dev".into()),
        pod: nix::unistd::gethostname()?.to_string_lossy().into_owned(),
        redis: setting("REDIS").map(Redis::at),
    });
    // Callers of either family; of IPv4 alone where there is no IPv6.
    let every = [
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
    ];
    let listener = TcpListener::bind(&every[..])
        .await
        .with_context(|| format!("port {port}"))?;
    let datagrams = UdpSocket::bind(&every[..])
        .await
        .with_context(|| format!("UDP port {port}"))?;
    let mut terminate = signal(SignalKind::terminate())?;
    let redis = front.redis.as_ref().map_or("none", |redis| &redis.address);
    println!(
        "user-center {} on port {port}, redis at {redis}",
        front.version
    );

    let router = Router::new()
        .route("/", get(front_page))
        .route("/healthz", get(healthz))
        .with_state(front.clone());
    tokio::spawn(echo(datagrams, front));
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service)
        .with_graceful_shutdown(async move {
            terminate.recv().await;
            println!("terminating: finishing what is under way");
        })
        .await?;
    Ok(())
}

async fn front_page(
    State(front): State<Arc<Front>>,
    ConnectInfo(caller): ConnectInfo<SocketAddr>,
) -> Json<Value> {
    let visits = match &front.redis {
        None => Value::Null,
        Some(redis) => match redis.count_visit().await {
            Ok(visits) => json!(visits),
            Err(error) => json!(format!("redis: {error:#}")),
        },
    };
    Json(json!({
        "app": "user-center",
        "version": front.version,
        "pod": front.pod,
        "caller": caller.ip().to_canonical(),
        "visits": visits,
    }))
}

async fn healthz(State(front): State<Arc<Front>>) -> (StatusCode, String) {
    (StatusCode::OK, format!("ok {}\n", front.version))
}

impl Redis {
    fn at(address: String) -> Self {
        Self {
            address,
            connection: Mutex::new(None),
        }
    }

    /// `INCR visits`. A connection that broke since the last visit is worth one more try.
    async fn count_visit(&self) -> Result<i64> {
        let mut connection = self.connection.lock().await;
        let kept = connection.is_some();
        let first = self.increment(&mut connection).await;
        if first.is_err() && kept {
            self.increment(&mut connection).await
        } else {
            first
        }
    }

    /// In redis' own protocol (RESP 2).
    async fn increment(&self, connection: &mut Option<BufReader<TcpStream>>) -> Result<i64> {
        let mut redis = match connection.take() {
            Some(redis) => redis,
            None => {
                let connect = TcpStream::connect(&self.address);
                BufReader::new(
                    timeout(REDIS_PATIENCE, connect)
                        .await
                        .context("no connection in time")??,
                )
            }
        };
        let mut line = String::new();
        let ask = async {
            redis
                .write_all(b"*2\r\n$4\r\nINCR\r\n$6\r\nvisits\r\n")
                .await?;
            redis.read_line(&mut line).await
        };
        timeout(REDIS_PATIENCE, ask)
            .await
            .context("no answer in time")??;
        let Some(visits) = line.trim_end().strip_prefix(':') else {
            bail!("answered {line:?}")
        };
        let visits = visits.parse()?;
        *connection = Some(redis);
        Ok(visits)
    }
}

/// Answers every datagram with version, pod and the datagram itself.
async fn echo(socket: UdpSocket, front: Arc<Front>) {
    let mut buffer = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let text = String::from_utf8_lossy(&buffer[..length]);
        let answer = json!({
            "version": front.version,
            "pod": front.pod,
            "caller": from.ip().to_canonical(),
            "echo": text,
        });
        let answer = answer.to_string();
        if let Err(error) = socket.send_to(answer.as_bytes(), from).await {
            eprintln!("answer to {from}: {error}");
        }
    }
}
