//! Thousands of watchers, each of one object, fed by writes at a steady rate: how long from before a write to its watcher.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Arguments;
use crate::content::{config, fill};
use crate::figures::quantile;
use waggle_bench::server::{Client, Server};

/// Watches on one connection.
const TOGETHER: usize = 500;
const WRITERS: usize = 16;
const PATH: &str = "/api/v1/namespaces/kube-public/configmaps";
/// How a written time begins in an event's line.
const MARK: &[u8] = b"\"at\":\"";

fn watched(number: usize) -> Value {
    let mut object = config("kube-public", &format!("w{number}"));
    object["data"]["at"] = json!("0");
    object
}

/// Microseconds since the epoch.
fn now() -> u128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros())
}

/// Measures and prints it.
#[expect(clippy::cast_precision_loss, reason = "some ten thousand writes")]
pub(crate) async fn measure(server: &Server, arguments: &Arguments) -> Result<()> {
    let (watchers, rate) = (arguments.watchers, arguments.writes);
    fill(server, PATH, watchers, watched).await?;
    let before = server.memory("VmRSS")?;
    let (mut reading, stop) = (JoinSet::new(), CancellationToken::new());
    for chunk in 0..watchers.div_ceil(TOGETHER) {
        let client = Client::connect(&server.door).await?;
        for number in chunk * TOGETHER..((chunk + 1) * TOGETHER).min(watchers) {
            let path = format!("{PATH}?watch=true&fieldSelector=metadata.name%3Dw{number}");
            let body = client.open("GET", &path, &Value::Null).await?;
            reading.spawn(follow(body, stop.clone()));
        }
    }
    let (opened, busy, start) = (server.memory("VmRSS")?, server.busy()?, Instant::now());
    let total = rate * usize::try_from(arguments.seconds)?;
    write(server, watchers, rate, total).await?;
    let took = start.elapsed().as_secs_f64();
    let busy = server.busy()? - busy;
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.cancel();
    let delays: Result<Vec<Vec<f64>>> = reading.join_all().await.into_iter().collect();
    let delays: Vec<f64> = delays?.into_iter().flatten().collect();
    ensure!(
        delays.len() == total,
        "{} events for {total} writes",
        delays.len()
    );
    println!(
        "{watchers} watchers of one object each; {total} writes, {:.0} a second, every one delivered once: from before the write \
         to its watcher p50 {:.1} ms, p99 {:.1} ms, slowest {:.1} ms; {:.2} processors busy; memory {before} -> {opened} MiB",
        total as f64 / took,
        quantile(&delays, 0.5),
        quantile(&delays, 0.99),
        quantile(&delays, 1.0),
        busy / took
    );
    Ok(())
}

/// `total` writes, `rate` a second, each to an object far from the last one's.
#[expect(clippy::cast_precision_loss, reason = "some ten thousand writes")]
async fn write(server: &Server, watchers: usize, rate: usize, total: usize) -> Result<()> {
    let (next, start) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let mut writing: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..WRITERS {
        let client = Client::connect(&server.door).await?;
        let next = Arc::clone(&next);
        writing.spawn(async move {
            loop {
                let turn = next.fetch_add(1, Ordering::Relaxed);
                if turn >= total {
                    return Ok(());
                }
                let due = start + Duration::from_secs_f64(turn as f64 / rate as f64);
                tokio::time::sleep_until(due.into()).await;
                let number = turn * 7919 % watchers;
                let mut object = watched(number);
                object["data"]["at"] = now().to_string().into();
                client
                    .ask("PUT", &format!("{PATH}/w{number}"), &object)
                    .await?;
            }
        });
    }
    writing.join_all().await.into_iter().collect()
}

/// Milliseconds from each write to its arrival.
async fn follow(mut body: Incoming, stop: CancellationToken) -> Result<Vec<f64>> {
    let (mut delays, mut text) = (Vec::new(), Vec::new());
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = stop.cancelled() => return Ok(delays),
        };
        let frame = frame.context("a watch ended")??;
        let arrived = now();
        text.extend_from_slice(frame.data_ref().map_or(&[][..], |bytes: &Bytes| &bytes[..]));
        while let Some(end) = text.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let at = written(&line).context("an event without its time")?;
            if at > 0 {
                delays.push(arrived.saturating_sub(at) as f64 / 1e3);
            }
        }
    }
}

fn written(line: &[u8]) -> Option<u128> {
    let start = line.windows(MARK.len()).position(|part| part == MARK)? + MARK.len();
    let digits = line[start..].split(|&byte| byte == b'"').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
