//! The API of a real server process under load, beside a single etcd on the same disk: durable creates, long lists,
//! thousands of watchers, memory. Every part gets a server of its own, in a folder that goes with it. How a server is
//! run and asked is in the library's `server`, what is made in it in `content`; each part is a module of its own.
#![forbid(unsafe_code)]

mod content;
mod creates;
mod figures;
mod lists;
mod memory;
mod watches;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};

/// Puts load on the API of a server and says what it takes.
#[derive(Parser)]
#[command(name = "waggle-bench-api")]
struct Arguments {
    /// Only these parts. All when none is named.
    parts: Vec<Part>,
    /// The `waggle` binary, an optimized one.
    #[arg(long)]
    waggle: PathBuf,
    /// Folder on the disk that is measured; what is made below it is removed.
    #[arg(long, default_value = ".")]
    folder: PathBuf,
    /// Clients that create at once, each on a connection of its own.
    #[arg(long, value_delimiter = ',', default_value = "8,64")]
    clients: Vec<usize>,
    /// Rounds of creates, each beside etcd's.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of a round, and of the writes that feed watchers.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Pods of the list.
    #[arg(long, default_value_t = 50_000)]
    pods: usize,
    /// Watchers, each of one object.
    #[arg(long, default_value_t = 5_000)]
    watchers: usize,
    /// Writes a second that they are fed with.
    #[arg(long, default_value_t = 1_000)]
    writes: usize,
    /// Pods and nodes that memory is measured with.
    #[arg(long, default_values_t = [100_000, 5_000], num_args = 2, value_names = ["PODS", "NODES"])]
    cluster: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Durable creates beside etcd's puts.
    Creates,
    /// A list of many pods.
    List,
    /// Delivery to many watchers.
    Watch,
    /// Memory, idle and with a large cluster.
    Memory,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let wants = |part| arguments.parts.is_empty() || arguments.parts.contains(&part);
    let start = || waggle_bench::server::Server::start(&arguments.waggle, &arguments.folder);
    if wants(Part::Creates) {
        creates::measure(start().await?, &arguments).await?;
    }
    if wants(Part::List) {
        lists::measure(&start().await?, arguments.pods).await?;
    }
    if wants(Part::Watch) {
        watches::measure(&start().await?, &arguments).await?;
    }
    if wants(Part::Memory) {
        memory::measure(&start().await?, arguments.cluster[0], arguments.cluster[1]).await?;
    }
    Ok(())
}
