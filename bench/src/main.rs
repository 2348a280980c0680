//! The scheduler on the cases of Kubernetes' scheduler_perf: pods come in batches, each is planned for by the real
//! planner and bound in the store by one durable transaction, as a server does it. What a case is made of is in
//! `cases`, the run of one in `run`, the plain scheduler that placements are compared with in `reference`.
#![forbid(unsafe_code)]

mod cases;
mod reference;
mod run;

use anyhow::{Result, bail};
use clap::Parser;

use cases::Case;

/// Schedules pods of many kinds on large clusters that exist on paper, and says how fast and how well.
#[derive(Parser)]
#[command(name = "waggle-bench")]
struct Arguments {
    /// Only these cases. All when none is named.
    cases: Vec<String>,
    /// Pods that wait together.
    #[arg(long, default_value_t = 1000)]
    batch: usize,
    /// Divides the numbers of nodes and pods.
    #[arg(long, default_value_t = 1)]
    scale: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let all = Case::all();
    if let Some(unknown) = arguments
        .cases
        .iter()
        .find(|wanted| all.iter().all(|case| case.name != wanted.as_str()))
    {
        let names: Vec<&str> = all.iter().map(|case| case.name).collect();
        bail!("no case {unknown:?}: name some of {}", names.join(", "));
    }
    println!(
        "pods/s: from waiting to bound durably, batches of {}; floor: threshold of that case in Kubernetes'",
        arguments.batch
    );
    println!("test/integration/scheduler_perf/*/performance-config.yaml (on its own machine).");
    println!(
        "uneven: standard deviation of the share of CPU asked for on each node, in percent, beside the plain scheduler's.\n"
    );
    println!(
        "{:<26}{:>7}{:>7}{:>10}{:>10}{:>7}{:>8}{:>9}{:>8}{:>8}",
        "case",
        "nodes",
        "pods",
        "pods/s",
        "plan/s",
        "floor",
        "placed",
        "violated",
        "uneven",
        "plain"
    );
    for case in all {
        let wanted = &arguments.cases;
        if wanted.is_empty() || wanted.iter().any(|name| name == case.name) {
            run::case(&case.scaled(arguments.scale), arguments.batch.max(1)).await?;
        }
    }
    Ok(())
}
