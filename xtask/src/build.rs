//! Builds the one binary. The eBPF programs are built by the datapath crate's own build script, so that a plain
//! `cargo build` makes the same thing.

use std::path::PathBuf;

use anyhow::Result;

use crate::run::{cargo, run, target_dir};

/// Which of cargo's profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build; what the tests run.
    Dev,
    /// Optimized; what is deployed and measured.
    Release,
}

impl Profile {
    /// The one that a `--release` flag chooses.
    pub(crate) fn of(release: bool) -> Self {
        if release { Self::Release } else { Self::Dev }
    }

    /// What cargo calls it.
    pub(crate) fn flag(self) -> Option<&'static str> {
        (self == Self::Release).then_some("--release")
    }
    /// Where cargo puts this profile's binaries.
    pub(crate) fn folder(self) -> PathBuf {
        target_dir().join(if self == Self::Release {
            "release"
        } else {
            "debug"
        })
    }
}

/// Builds `waggle` and returns its path.
pub(crate) fn waggle(profile: Profile) -> Result<PathBuf> {
    package("waggle", profile)?;
    Ok(profile.folder().join("waggle"))
}

/// Builds one package of the workspace.
pub(crate) fn package(name: &str, profile: Profile) -> Result<()> {
    run(cargo()
        .args(["build", "--locked", "--package", name])
        .args(profile.flag()))
}
