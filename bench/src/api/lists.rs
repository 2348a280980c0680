//! A list of many pods: how long until its first byte and until its last, and how much memory it takes meanwhile.

use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::content::{fill, pod};
use crate::figures::spread;
use waggle_bench::server::{Client, Server};

const TIMES: usize = 7;

/// Measures and prints it.
#[expect(clippy::cast_precision_loss, reason = "some ten thousand pods")]
pub(crate) async fn measure(server: &Server, pods: usize) -> Result<()> {
    let start = Instant::now();
    fill(server, "/api/v1/namespaces/default/pods", pods, |number| {
        pod(number, 0)
    })
    .await?;
    let rate = pods as f64 / start.elapsed().as_secs_f64();
    let before = server.memory("VmRSS")?;
    server.forget_peak()?;
    let client = Client::connect(&server.door).await?;
    let (mut firsts, mut alls, mut bytes) = (Vec::new(), Vec::new(), 0);
    for _ in 0..TIMES {
        let start = Instant::now();
        let mut body = client.open("GET", "/api/v1/pods", &Value::Null).await?;
        let mut first = None;
        bytes = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame?;
            bytes += frame.data_ref().map_or(0, Bytes::len);
            first.get_or_insert_with(|| start.elapsed().as_secs_f64() * 1e3);
        }
        firsts.push(first.context("an empty list")?);
        alls.push(start.elapsed().as_secs_f64() * 1e3);
    }
    println!(
        "list of {pods} pods ({rate:.0} created a second), {:.1} MiB, {TIMES} times: first byte after {} ms, all after {} ms; \
         memory {before} MiB before, {} MiB at most meanwhile",
        bytes as f64 / f64::from(1 << 20),
        spread(&firsts, 0),
        spread(&alls, 0),
        server.memory("VmHWM")?
    );
    Ok(())
}
