//! Images of other people's software as Debian packages it, for the tests that run it by its ordinary manifests
//! (`examples/`). One layer each over a common base; kept in the cache like the sample application's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::debian;
use crate::images::{self, PATH};
use crate::oci_layout::Layout;

/// One image: `software/NAME:debian`.
struct Software {
    name: &'static str,
    /// Debian's package; what it needs is found by apt.
    package: &'static str,
    entrypoint: &'static [&'static str],
    /// Shows that all its libraries are there.
    check: &'static [&'static str],
    /// What it needs at hand without a volume: folders, everybody's, as whoever runs it is the manifest's to say.
    folders: &'static [&'static str],
}

/// User and group of every image.
const USER: u32 = 999;

const SOFTWARE: &[Software] = &[
    Software {
        name: "redis",
        package: "redis-server",
        entrypoint: &["redis-server"],
        check: &["redis-server", "--version"],
        folders: &["data"],
    },
    Software {
        name: "postgresql",
        package: "postgresql",
        entrypoint: &["postgresql-entrypoint"],
        check: &["sh", "-c", "/usr/lib/postgresql/*/bin/postgres --version"],
        folders: &["run/postgresql"],
    },
    Software {
        name: "nginx",
        package: "nginx",
        entrypoint: &["nginx", "-g", "daemon off;"],
        check: &["nginx", "-v"],
        folders: &["var/lib/nginx"],
    },
    Software {
        name: "nats",
        package: "nats-server",
        entrypoint: &["nats-server"],
        check: &["nats-server", "--version"],
        folders: &[],
    },
    Software {
        name: "prometheus",
        package: "prometheus",
        entrypoint: &["prometheus"],
        check: &["prometheus", "--version"],
        folders: &["prometheus"],
    },
    Software {
        name: "vmagent",
        package: "victoria-metrics",
        entrypoint: &["vmagent"],
        check: &["vmagent", "-version"],
        folders: &[],
    },
];

/// Database clusters are made at the first start, as the usual images do.
const POSTGRESQL_ENTRYPOINT: &str = include_str!("software/postgresql-entrypoint");

/// Builds the images that are not there yet; returns the layout's folder.
///
/// # Errors
/// A package is not to be had.
pub(crate) fn images() -> Result<PathBuf> {
    let mut key = Sha256::new();
    key.update(include_bytes!("software.rs"));
    key.update(POSTGRESQL_ENTRYPOINT);
    images::kept("software", "other people's software", key, assemble)
}

fn assemble(work: &Path) -> Result<()> {
    let debs = work.join("debs");
    let base = work.join("base");
    debian::unpack(debian::BASE, &base, &debs)?;
    debian::base_files(&base)?;
    let mut layout = Layout::create(&work.join("layout"))?;
    let base_layer = layout.layer(&base)?;
    for software in SOFTWARE {
        let tree = work.join(software.name);
        let layer = fill(software, &tree, &debs)
            .and_then(|()| debian::check(&[&base, &tree], work, software.check))
            .and_then(|()| layout.layer(&tree))
            .with_context(|| format!("image of {}", software.name))?;
        layout.image(
            &format!("software/{}:debian", software.name),
            &[base_layer.clone(), layer],
            &json!({"Env": [PATH], "Entrypoint": software.entrypoint, "User": software.name, "WorkingDir": "/"}),
        )?;
    }
    layout.finish()
}

fn fill(software: &Software, tree: &Path, debs: &Path) -> Result<()> {
    debian::unpack(&debian::closure(software.package)?, tree, debs)?;
    let name = software.name;
    let etc = tree.join("etc");
    fs::create_dir_all(&etc)?;
    let passwd = format!(
        "root:x:0:0:root:/root:/bin/sh\n{name}:x:{USER}:{USER}::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n"
    );
    fs::write(etc.join("passwd"), passwd)?;
    let group = format!("root:x:0:\n{name}:x:{USER}:\nnogroup:x:65534:\n");
    fs::write(etc.join("group"), group)?;
    for folder in software.folders {
        let folder = tree.join(folder);
        fs::create_dir_all(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o1777))?;
    }
    if name == "postgresql" {
        postgresql(tree)?;
    }
    Ok(())
}

fn postgresql(tree: &Path) -> Result<()> {
    let bin = tree.join("usr/local/bin");
    fs::create_dir_all(&bin)?;
    let entrypoint = bin.join("postgresql-entrypoint");
    fs::write(&entrypoint, POSTGRESQL_ENTRYPOINT)?;
    fs::set_permissions(&entrypoint, fs::Permissions::from_mode(0o755))?;
    for version in fs::read_dir(tree.join("usr/lib/postgresql"))? {
        // Without its compiler, which is as large as all the rest, the server does not compile queries.
        let compiler = version?.path().join("lib/llvmjit.so");
        fs::remove_file(&compiler).with_context(|| format!("remove {}", compiler.display()))?;
    }
    Ok(())
}
