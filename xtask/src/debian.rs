//! Root filesystems from Debian packages: which packages a program needs, their files unpacked into a folder, and the few
//! files that an installed system has and a package hasn't. Images of them are written by [`crate::oci_layout`].

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::run::quiet;

/// C library and a shell with the usual tools; not the static one, whose look-ups need the C library's modules anyway.
pub(crate) const BASE: &[&str] = &["libc6", "libgcc-s1", "busybox"];
const TOOLS: &[&str] = &[
    "sh", "cat", "ls", "echo", "sleep", "true", "false", "date", "env", "hostname", "id", "ip",
    "mkdir", "mount", "mv", "nc", "nslookup", "ping", "printf", "ps", "rm", "sed", "seq", "stat",
    "tail", "test", "timeout", "touch", "wc", "wget", "yes", "kill", "grep", "head", "df", "dd",
    "sync", "stty", "tar", "httpd",
];
/// What only an installation asks for, and what most would do without: scripts of packages, translations, a compiler.
const INSTALLERS: &[&str] = &[
    "adduser",
    "debconf",
    "dpkg",
    "init-system-helpers",
    "iproute2",
    "javascript-common",
    "libc-l10n",
    "libllvm14",
    "libperl5.36",
    "libpam-modules",
    "libz3-4",
    "locales",
    "lsb-base",
    "passwd",
    "perl",
    "perl-base",
    "perl-modules-5.36",
    "postgresql-client-common",
    "postgresql-common",
    "ssl-cert",
    "sysvinit-utils",
    "tar",
    "ucf",
    "usrmerge",
];

/// The packages that `package` needs to run on top of [`BASE`], itself among them, as apt would install them on an empty
/// system.
///
/// # Errors
/// apt knows no such package.
pub(crate) fn closure(package: &str) -> Result<Vec<String>> {
    let needed = |packages: &[&str]| -> Result<BTreeSet<String>> {
        let mut simulate = Command::new("apt-get");
        simulate
            .args(["install", "--simulate", "--no-install-recommends"])
            .args(["--option", "Dir::State::status=/dev/null"])
            .args(packages);
        let plan = fresh(|| quiet(&mut simulate))?;
        let names = plan.lines().filter_map(|line| line.strip_prefix("Inst "));
        Ok(names
            .filter_map(|rest| rest.split(' ').next())
            .map(str::to_owned)
            .collect())
    };
    let base = needed(BASE)?;
    let mut all = needed(&[package])?;
    ensure!(all.contains(package), "apt would not install {package}");
    all.retain(|name| !base.contains(name) && !INSTALLERS.contains(&name.as_str()));
    Ok(all.into_iter().collect())
}

/// Again with new package lists when it failed: a fresh machine has none, an old one has those of packages that are gone.
fn fresh(mut work: impl FnMut() -> Result<String>) -> Result<String> {
    work().or_else(|_| {
        quiet(Command::new("apt-get").args(["update", "-qq"]))?;
        work()
    })
}

/// Downloads packages of this machine's Debian and unpacks them, without their documentation.
///
/// # Errors
/// No such package, no network, no room.
pub(crate) fn unpack(packages: &[impl AsRef<OsStr>], tree: &Path, debs: &Path) -> Result<()> {
    fs::create_dir_all(tree)?;
    let folder = debs.join(tree.file_name().context("a folder")?);
    fs::create_dir_all(&folder)?;
    let mut download = Command::new("apt-get");
    download.args(["download", "-qq"]).args(packages);
    download.current_dir(&folder);
    fresh(|| quiet(&mut download)).context("download Debian packages")?;
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

/// What an installation adds to [`BASE`]: folders, users, links.
///
/// # Errors
/// A file can't be written.
pub(crate) fn base_files(tree: &Path) -> Result<()> {
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
    symlink("/run", tree.join("var/run"))?;
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

/// Runs a program inside the image that these trees make, so that a missing library is found here and not in a cluster.
///
/// # Errors
/// It can't be run there, or fails.
pub(crate) fn check(trees: &[&Path], work: &Path, command: &[&str]) -> Result<()> {
    let whole = work.join("check");
    let _ = fs::remove_dir_all(&whole);
    fs::create_dir_all(&whole)?;
    for tree in trees {
        let mut contents = tree.as_os_str().to_owned();
        contents.push("/.");
        quiet(Command::new("cp").arg("-a").arg(&contents).arg(&whole))?;
    }
    quiet(Command::new("chroot").arg(&whole).args(command)).map(drop)
}
