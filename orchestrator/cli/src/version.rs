//! `waggle version`.

use std::process::ExitCode;

use anyhow::Result;

use crate::connect::{Api, Globals};

/// Arguments of `version`.
#[derive(Debug, clap::Args)]
pub struct VersionArgs {
    /// This program's only; the server is not asked
    #[arg(long)]
    client: bool,
}

/// Prints this program's version and, unless told otherwise, the server's.
pub(crate) async fn run(args: VersionArgs, globals: &Globals, build: &str) -> Result<ExitCode> {
    crate::get::put(&format!("Client Version: {build}\n"))?;
    if args.client {
        return Ok(ExitCode::SUCCESS);
    }
    let api = Api::connect(globals).await?;
    let version = api.get("/version").await?;
    crate::get::put(&format!(
        "Server Version: {}\n",
        version["gitVersion"].as_str().unwrap_or("unknown")
    ))?;
    Ok(ExitCode::SUCCESS)
}
