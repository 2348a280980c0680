//! `waggle backup FILE`: the whole cluster at one moment, as one file, while it runs. `waggle restore` is the binary's own:
//! it works without a server.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use futures::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;

use crate::connect::{Api, Globals};
use crate::get::put;

/// Arguments of `backup`.
#[derive(Debug, clap::Args)]
pub struct BackupArgs {
    /// File to write; it holds the cluster's keys and Secrets
    file: PathBuf,
}

/// Runs it. The file appears when it is whole.
pub(crate) async fn run(args: BackupArgs, globals: &Globals) -> Result<ExitCode> {
    let api = Api::connect(globals).await?;
    let body = api.stream("/backup", "application/octet-stream").await?;
    let mut body = std::pin::pin!(body);
    let mut name = args.file.clone().into_os_string();
    name.push(".unfinished");
    let unfinished = PathBuf::from(name);
    let shown = unfinished.display().to_string();
    let mut options = tokio::fs::OpenOptions::new();
    let options = options.create(true).write(true).truncate(true).mode(0o600);
    let mut file = options
        .open(&unfinished)
        .await
        .with_context(|| format!("cannot write {shown}"))?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = body
            .read(&mut buffer)
            .await
            .context("the backup broke off")?;
        if count == 0 {
            break;
        }
        let written = file.write_all(&buffer[..count]).await;
        written.with_context(|| format!("cannot write {shown}"))?;
    }
    file.sync_all()
        .await
        .with_context(|| format!("cannot write {shown}"))?;
    let summary = waggle_store::backup::verify(&unfinished)?;
    std::fs::rename(&unfinished, &args.file)
        .with_context(|| format!("cannot write {}", args.file.display()))?;
    put(&format!(
        "{} entries at revision {} are in {}. Keep it safe: it holds the cluster's keys and Secrets.\n",
        summary.entries,
        summary.revision.0,
        args.file.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}
