//! Tracing to standard error. `WAGGLE_LOG` filters (`info,waggle_server=debug`); colours only on a terminal.

use std::io::IsTerminal as _;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

/// Starts it; `default` is the filter when `WAGGLE_LOG` is not set.
pub(crate) fn start(default: &str) -> Result<()> {
    let filter = match std::env::var("WAGGLE_LOG") {
        Ok(text) if !text.is_empty() => text
            .parse()
            .with_context(|| format!("WAGGLE_LOG={text} is no filter"))?,
        _ => EnvFilter::new(default),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(|error| anyhow::anyhow!("cannot start tracing: {error}"))
}
