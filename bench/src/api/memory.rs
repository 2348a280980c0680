//! What a server holds: idle, and with a large cluster's objects.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::content::{fill, node, pod};
use waggle_bench::server::Server;

/// Measures and prints it.
pub(crate) async fn measure(server: &Server, pods: usize, nodes: usize) -> Result<()> {
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("idle server: {} MiB resident", server.memory("VmRSS")?);
    let start = Instant::now();
    fill(server, "/api/v1/nodes", nodes, node).await?;
    fill(
        server,
        "/api/v1/namespaces/default/pods",
        pods,
        move |number| pod(number, nodes),
    )
    .await?;
    let took = start.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(5)).await;
    println!(
        "{pods} pods on {nodes} nodes, made in {took:.0} s: {} MiB resident, {} MiB at most",
        server.memory("VmRSS")?,
        server.memory("VmHWM")?
    );
    Ok(())
}
