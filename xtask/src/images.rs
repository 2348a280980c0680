//! Assembles the sample application's images: Debian packages unpacked into folders, our own binaries beside them,
//! written as one OCI layout. Kept in the cache under a name made from their contents, so a second run is free.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::build::{self, Profile};
use crate::oci_layout::Layout;
use crate::run::{cache_dir, quiet};

/// C library and a shell with the usual tools; not the static one, whose look-ups need the C library's modules anyway.
const BASE: &[&str] = &["libc6", "libgcc-s1", "busybox"];
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
const TOOLS: &[&str] = &[
    "sh", "cat", "ls", "echo", "sleep", "true", "false", "date", "env", "hostname", "id", "ip",
    "mkdir", "mount", "nc", "nslookup", "ping", "ps", "rm", "seq", "stat", "tail", "test", "touch",
    "wc", "wget", "yes", "kill", "grep", "head", "df", "dd", "sync", "stty", "tar", "httpd",
];

/// Builds what is not there yet; returns the layout's folder. It holds `shop/user-center:2.0` and `:2.1`, `shop/redis:7`
/// and `shop/client:1.0`.
pub(crate) fn sample_application(profile: Profile) -> Result<PathBuf> {
    build::package("user-center", profile)?;
    let binaries = [
        profile.folder().join("user-center"),
        profile.folder().join("shop-client"),
    ];
    let key = contents_key(&binaries)?;
    let images = cache_dir()?.join("images");
    let layout = images.join(format!("shop-{key}"));
    if layout.join("index.json").exists() {
        return Ok(layout);
    }
    println!("images: assembling the sample application from Debian packages");
    let work = images.join(format!("work-{}", std::process::id()));
    let _ = fs::remove_dir_all(&work);
    let made = assemble(&work, &binaries);
    let placed = made.and_then(|()| {
        let _ = fs::remove_dir_all(&layout);
        fs::rename(work.join("layout"), &layout).context("put the layout in its place")
    });
    let _ = fs::remove_dir_all(&work);
    placed.map(|()| layout)
}

fn contents_key(binaries: &[PathBuf]) -> Result<String> {
    let mut hash = Sha256::new();
    for path in binaries {
        hash.update(fs::read(path).with_context(|| format!("read {}", path.display()))?);
    }
    hash.update(include_bytes!("images.rs"));
    Ok(hash
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn assemble(work: &Path, binaries: &[PathBuf]) -> Result<()> {
    let tree = |name: &str| work.join(name);
    unpack(BASE, &tree("base"), &work.join("debs"))?;
    base_files(&tree("base"))?;
    unpack(REDIS, &tree("redis"), &work.join("debs"))?;
    check_redis(work)?;
    for (name, binary) in [("front", &binaries[0]), ("client", &binaries[1])] {
        let folder = tree(name).join("usr/local/bin");
        fs::create_dir_all(&folder)?;
        let target = folder.join(binary.file_name().context("a file")?);
        fs::copy(binary, &target)?;
        quiet(Command::new("strip").arg(&target))?;
    }

    let mut layout = Layout::create(&work.join("layout"))?;
    let base = layout.layer(&tree("base"))?;
    let redis = layout.layer(&tree("redis"))?;
    let front = layout.layer(&tree("front"))?;
    let client = layout.layer(&tree("client"))?;
    let path = "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
    for version in ["2.0", "2.1"] {
        let config = json!({"Env": [path, format!("VERSION={version}")], "Entrypoint": ["user-center"], "User": "65534:65534",
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
        &json!({"Env": [path], "Entrypoint": ["redis-server"], "Cmd": []}),
    )?;
    layout.image(
        "shop/client:1.0",
        &[base, client],
        &json!({"Env": [path], "Cmd": ["sh"]}),
    )?;
    layout.finish()
}

/// Downloads packages of this machine's Debian and unpacks them, without their documentation.
fn unpack(packages: &[&str], tree: &Path, debs: &Path) -> Result<()> {
    fs::create_dir_all(tree)?;
    let folder = debs.join(tree.file_name().context("a folder")?);
    fs::create_dir_all(&folder)?;
    let download = |packages: &[&str]| {
        quiet(
            Command::new("apt-get")
                .args(["download", "-qq"])
                .args(packages)
                .current_dir(&folder),
        )
    };
    if download(packages).is_err() {
        quiet(Command::new("apt-get").args(["update", "-qq"]))?;
        download(packages).context("download Debian packages")?;
    }
    for deb in fs::read_dir(&folder)? {
        quiet(
            Command::new("dpkg-deb")
                .arg("-x")
                .arg(deb?.path())
                .arg(tree),
        )?;
    }
    for left_out in [
        "usr/share/doc",
        "usr/share/man",
        "usr/share/lintian",
        "usr/share/locale",
        "usr/lib/systemd",
        "lib/systemd",
        "etc/init.d",
    ] {
        let _ = fs::remove_dir_all(tree.join(left_out));
    }
    merge_usr(tree)
}

/// Debian's packages still ship /lib and /bin; its systems have them as links into /usr.
fn merge_usr(tree: &Path) -> Result<()> {
    for name in ["bin", "sbin", "lib", "lib64"] {
        let (old, new) = (tree.join(name), tree.join("usr").join(name));
        if old.is_dir() && !old.is_symlink() {
            fs::create_dir_all(&new)?;
            let mut contents = old.into_os_string();
            contents.push("/.");
            quiet(Command::new("cp").arg("-a").arg(&contents).arg(&new))?;
            fs::remove_dir_all(tree.join(name))?;
            symlink(format!("usr/{name}"), tree.join(name))?;
        }
    }
    Ok(())
}

fn base_files(tree: &Path) -> Result<()> {
    for folder in [
        "etc",
        "tmp",
        "var/tmp",
        "root",
        "home",
        "proc",
        "sys",
        "dev",
        "run",
        "usr/local/bin",
    ] {
        fs::create_dir_all(tree.join(folder))?;
    }
    for folder in ["tmp", "var/tmp"] {
        fs::set_permissions(tree.join(folder), fs::Permissions::from_mode(0o1777))?;
    }
    fs::write(
        tree.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nredis:x:999:999::/var/lib/redis:/bin/false\nnobody:x:65534:65534::/:/bin/false\n",
    )?;
    fs::write(
        tree.join("etc/group"),
        "root:x:0:\nredis:x:999:\nnogroup:x:65534:\n",
    )?;
    fs::write(
        tree.join("etc/nsswitch.conf"),
        "passwd: files\ngroup: files\nhosts: files dns\n",
    )?;
    for tool in TOOLS {
        let link = tree.join("usr/bin").join(tool);
        if !link.exists() && !link.is_symlink() {
            symlink("busybox", link)?;
        }
    }
    // Where the C library looks for the libraries of this machine's architecture.
    quiet(Command::new("ldconfig").arg("-r").arg(tree)).map(drop)
}

/// Runs redis-server inside its image, so that a missing library is found here and not in a cluster.
fn check_redis(work: &Path) -> Result<()> {
    let whole = work.join("check");
    for tree in ["base", "redis"] {
        let mut contents = work.join(tree).into_os_string();
        contents.push("/.");
        fs::create_dir_all(&whole)?;
        quiet(Command::new("cp").arg("-a").arg(&contents).arg(&whole))?;
    }
    quiet(
        Command::new("chroot")
            .arg(&whole)
            .args(["/usr/bin/redis-server", "--version"]),
    )
    .map(drop)
}
