//! `waggle config`: which kubeconfig is used.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::connect::{Globals, kubeconfig_path};

/// Arguments of `config`.
#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print the path of the kubeconfig
    Path,
    /// Print the kubeconfig itself
    View,
}

/// Runs it.
pub(crate) fn run(args: ConfigArgs, globals: &Globals) -> Result<ExitCode> {
    let path = kubeconfig_path(globals)?;
    match args.action {
        Action::Path => crate::get::put(&format!("{}\n", path.display()))?,
        Action::View => {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            crate::get::put(&text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
