//! `waggle scale`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::json;

use crate::connect::{Api, Globals};
use crate::kinds::Kinds;

/// Arguments of `scale`.
#[derive(Debug, clap::Args)]
pub struct ScaleArgs {
    /// TYPE NAME... or TYPE/NAME...
    #[arg(required = true)]
    what: Vec<String>,
    /// Wanted number of replicas
    #[arg(long)]
    replicas: u32,
    /// Only if there are this many now
    #[arg(long, value_name = "N")]
    current_replicas: Option<u32>,
}

/// Runs it.
pub(crate) async fn run(args: ScaleArgs, globals: &Globals) -> Result<ExitCode> {
    let api = Api::connect(globals).await?;
    let kinds = Kinds::discover(&api).await?;
    for target in kinds.targets(&args.what)? {
        let Some(name) = target.name else {
            bail!("name the {} to scale", target.kind.kind)
        };
        let path = format!("{}/scale", target.kind.object(&api.namespace, &name));
        let current = api.get(&path).await?["spec"]["replicas"]
            .as_u64()
            .unwrap_or(0);
        if let Some(expected) = args.current_replicas
            && u64::from(expected) != current
        {
            bail!(
                "{}/{name} has {current} replicas, not {expected}: nothing was changed",
                target.kind.qualified()
            );
        }
        api.merge_patch(&path, &json!({"spec": {"replicas": args.replicas}}))
            .await?;
        crate::get::put(&format!("{}/{name} scaled\n", target.kind.qualified()))?;
    }
    Ok(ExitCode::SUCCESS)
}
