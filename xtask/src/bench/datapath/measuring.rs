//! The binary of the BPF tests, which measures the datapath from inside: xtask links nothing of the product.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::build::Profile;
use crate::run::{cargo, quiet};

/// The binary.
pub(crate) struct Measuring(PathBuf);

impl Measuring {
    /// Builds it.
    pub(crate) fn build(profile: Profile) -> Result<Self> {
        let mut build = cargo();
        build
            .args(["test", "--locked", "--quiet", "--package", "waggle-tests"])
            .args(["--test", "bpf", "--no-run", "--message-format", "json"])
            .args(profile.flag());
        let messages = quiet(&mut build)?;
        let executable = |line: &str| {
            let message: Value = serde_json::from_str(line).ok()?;
            message["executable"].as_str().map(PathBuf::from)
        };
        let found = messages.lines().filter_map(executable).next_back();
        found
            .map(Self)
            .context("cargo names no binary of the BPF tests")
    }

    /// One visit to a cell; its figures, a line each.
    pub(crate) fn visit(&self, what: &str, number: u32) -> Result<Vec<Value>> {
        let mut visit = Command::new(&self.0);
        let text = quiet(visit.args(["measure", what, &number.to_string()]))?;
        let figures = text.lines().filter(|line| line.starts_with('{'));
        figures
            .map(|line| serde_json::from_str(line).with_context(|| format!("no figures: {line}")))
            .collect()
    }
}

/// A number among figures, by the names that lead there.
pub(crate) fn number(figures: &Value, path: &[&str]) -> Result<f64> {
    let found = path.iter().fold(figures, |value, name| &value[*name]);
    found
        .as_f64()
        .with_context(|| format!("no {}: {figures}", path.join(".")))
}
