//! The sample application's web front: answers over HTTP and UDP with its version and pod name, and counts visits in
//! redis, which it finds by its DNS name.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// How long redis may take to answer before a request goes on without it.
const REDIS_PATIENCE: Duration = Duration::from_secs(1);

struct Front {
    version: String,
    pod: String,
    redis: Option<String>,
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
        redis: setting("REDIS"),
    });
    let listener = TcpListener::bind(("0.0.0.0", port))
        .await
        .with_context(|| format!("port {port}"))?;
    let datagrams = UdpSocket::bind(("0.0.0.0", port))
        .await
        .with_context(|| format!("UDP port {port}"))?;
    let mut terminate = signal(SignalKind::terminate())?;
    println!(
        "user-center {} on port {port}, redis at {:?}",
        front.version, front.redis
    );

    let router = Router::new()
        .route("/", get(front_page))
        .route("/healthz", get(healthz))
        .with_state(front.clone());
    tokio::spawn(echo(datagrams, front));
    axum::serve(listener, router)
        .with_graceful_shutdown(async move {
            terminate.recv().await;
            println!("terminating: finishing what is under way");
        })
        .await?;
    Ok(())
}

async fn front_page(State(front): State<Arc<Front>>) -> Json<Value> {
    let visits = match &front.redis {
        None => Value::Null,
        Some(address) => match count_visit(address).await {
            Ok(visits) => json!(visits),
            Err(error) => json!(format!("redis: {error:#}")),
        },
    };
    Json(
        json!({"app": "user-center", "version": front.version, "pod": front.pod, "visits": visits}),
    )
}

async fn healthz(State(front): State<Arc<Front>>) -> (StatusCode, String) {
    (StatusCode::OK, format!("ok {}\n", front.version))
}

/// `INCR visits`, in redis' own protocol (RESP 2).
async fn count_visit(address: &str) -> Result<i64> {
    let ask = async {
        let mut redis = BufReader::new(TcpStream::connect(address).await.context("connect")?);
        redis
            .write_all(b"*2\r\n$4\r\nINCR\r\n$6\r\nvisits\r\n")
            .await?;
        let mut line = String::new();
        redis.read_line(&mut line).await?;
        match line.trim_end().strip_prefix(':') {
            Some(number) => Ok(number.parse()?),
            None => bail!("answered {line:?}"),
        }
    };
    timeout(REDIS_PATIENCE, ask)
        .await
        .context("no answer within a second")?
}

/// Answers every datagram with version, pod and the datagram itself.
async fn echo(socket: UdpSocket, front: Arc<Front>) {
    let mut buffer = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let text = String::from_utf8_lossy(&buffer[..length]);
        let answer = json!({"version": front.version, "pod": front.pod, "echo": text}).to_string();
        if let Err(error) = socket.send_to(answer.as_bytes(), from).await {
            eprintln!("answer to {from}: {error}");
        }
    }
}
