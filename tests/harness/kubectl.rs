//! Real kubectl, aimed at a cluster of the tests.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::command::{Background, Output, run};

const LIMIT: Duration = Duration::from_secs(90);

/// A kubectl with the cluster's kubeconfig and a cache of its own.
#[derive(Debug)]
pub struct Kubectl {
    binary: PathBuf,
    config: PathBuf,
    cache: tempfile::TempDir,
}

impl Kubectl {
    /// The one that an environment variable names: `WAGGLE_KUBECTL`, the current one, or `WAGGLE_KUBECTL_OLD`, `_MIDDLE`.
    ///
    /// # Errors
    /// The variable is not set.
    pub fn new(cluster: &Cluster, variable: &str) -> Result<Self> {
        let binary = std::env::var_os(variable)
            .with_context(|| format!("{variable} is not set"))?
            .into();
        Ok(Self {
            binary,
            config: cluster.folder().join("kubeconfig"),
            cache: tempfile::tempdir()?,
        })
    }

    /// kubectl with these arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .arg("--kubeconfig")
            .arg(&self.config)
            .arg("--cache-dir")
            .arg(self.cache.path())
            .args(arguments);
        command
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It can't be started or doesn't end within 90 s.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        run(&mut self.command(arguments), LIMIT)
    }

    /// The same with a file as its standard input.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn fed(&self, input: &Path, arguments: &[&str]) -> Result<Output> {
        Background::fed(&mut self.command(arguments), File::open(input)?)?.finish(LIMIT)
    }

    /// Standard output of a success.
    ///
    /// # Errors
    /// As [`Kubectl::run`], or it failed.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        self.run(arguments)?.ok()
    }
}
