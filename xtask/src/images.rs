//! Assembles the sample application's images: Debian packages unpacked into folders, our own binaries beside them,
//! written as one OCI layout. Kept in the cache under a name made from their contents, so a second run is free.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::build::{self, Profile};
use crate::debian;
use crate::oci_layout::Layout;
use crate::run::{cache_dir, quiet};

/// redis-server and the libraries that it loads.
const REDIS: &[&str] = &[
    "redis-server",
    "redis-tools",
    "libatomic1",
    "libcap2",
    "libgcrypt20",
    "libgpg-error0",
    "libhiredis0.14",
    "libjemalloc2",
    "liblua5.1-0",
    "liblz4-1",
    "liblzf1",
    "liblzma5",
    "libssl3",
    "libstdc++6",
    "libsystemd0",
    "libzstd1",
    "lua-bitop",
    "lua-cjson",
];
/// Where an image's programs are.
pub(crate) const PATH: &str = "PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// Builds what is not there yet; returns the layout's folder. It holds `shop/user-center:2.0` and `:2.1`, `shop/redis:7`
/// and `shop/client:1.0`.
pub(crate) fn sample_application(profile: Profile) -> Result<PathBuf> {
    build::package("user-center", profile)?;
    let binaries = [
        profile.folder().join("user-center"),
        profile.folder().join("shop-client"),
    ];
    let mut key = Sha256::new();
    for path in &binaries {
        key.update(fs::read(path).with_context(|| format!("read {}", path.display()))?);
    }
    key.update(include_bytes!("images.rs"));
    let why = "the sample application";
    kept("shop", why, key, |work| assemble(work, &binaries))
}

/// The layout of this name and key in the cache; `assemble` makes it in the folder `layout` of the work folder that it is given.
///
/// # Errors
/// What `assemble` says.
pub(crate) fn kept(
    name: &str,
    why: &str,
    key: Sha256,
    assemble: impl Fn(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let key = key
        .chain_update(include_bytes!("debian.rs"))
        .chain_update(include_bytes!("oci_layout.rs"))
        .finalize();
    let key: String = key.iter().take(8).map(|b| format!("{b:02x}")).collect();
    let images = cache_dir()?.join("images");
    let layout = images.join(format!("{name}-{key}"));
    if layout.join("index.json").exists() {
        return Ok(layout);
    }
    println!("images: assembling {why} from Debian packages");
    let work = images.join(format!("work-{}", std::process::id()));
    let _ = fs::remove_dir_all(&work);
    let placed = assemble(&work).and_then(|()| {
        let _ = fs::remove_dir_all(&layout);
        fs::rename(work.join("layout"), &layout).context("put the layout in its place")
    });
    let _ = fs::remove_dir_all(&work);
    placed.map(|()| layout)
}

fn assemble(work: &Path, binaries: &[PathBuf]) -> Result<()> {
    let tree = |name: &str| work.join(name);
    let base = tree("base");
    debian::unpack(debian::BASE, &base, &work.join("debs"))?;
    debian::base_files(&base)?;
    debian::unpack(REDIS, &tree("redis"), &work.join("debs"))?;
    let redis_server = ["/usr/bin/redis-server", "--version"];
    debian::check(&[&base, &tree("redis")], work, &redis_server)?;
    for (name, binary) in [("front", &binaries[0]), ("client", &binaries[1])] {
        let folder = tree(name).join("usr/local/bin");
        fs::create_dir_all(&folder)?;
        let target = folder.join(binary.file_name().context("a file")?);
        fs::copy(binary, &target)?;
        quiet(Command::new("strip").arg(&target))?;
    }

    let mut layout = Layout::create(&work.join("layout"))?;
    let base = layout.layer(&base)?;
    let redis = layout.layer(&tree("redis"))?;
    let front = layout.layer(&tree("front"))?;
    let client = layout.layer(&tree("client"))?;
    for version in ["2.0", "2.1"] {
        let config = json!({"Env": [PATH, format!("VERSION={version}")], "Entrypoint": ["user-center"], "User": "65534:65534",
            "ExposedPorts": {"8080/tcp": {}, "8080/udp": {}}});
        layout.image(
            &format!("shop/user-center:{version}"),
            &[base.clone(), front.clone()],
            &config,
        )?;
    }
    layout.image(
        "shop/redis:7",
        &[base.clone(), redis],
        &json!({"Env": [PATH], "Entrypoint": ["redis-server"], "Cmd": []}),
    )?;
    layout.image(
        "shop/client:1.0",
        &[base, client],
        &json!({"Env": [PATH], "Cmd": ["sh"]}),
    )?;
    layout.finish()
}
