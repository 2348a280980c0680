//! Encryption at rest over an etcd: what its members have on disk and answer holds no plain text of a Secret, and a key is
//! exchanged for another while one server follows the other.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use etcd_client::{Client, GetOptions};
use harness::{Background, eventually, free_ports, run};

use crate::etcd::Etcd;
use crate::{SETTLE, World, kubectl};

/// Nothing else says this, plain or in base64 (in any of its three alignments: it is the Secret's whole value).
const PIN: &str = "the pin of the card is 7391";
const PIN_BASE64: &str = "dGhlIHBpbiBvZiB0aGUgY2FyZCBpcyA3Mzkx";
/// Where a Secret is in the etcd.
const SECRETS: &str = "/waggle/registry/core/secrets/";
/// Where the cluster's own keys are.
const KEYS: &str = "/waggle/keys/";

/// Keys of 32 bytes, in base64.
const OLD: (&str, &str) = ("old", "MTExMTExMTExMTExMTExMTExMTExMTExMTExMTExMTE=");
const NEW: (&str, &str) = ("new", "MjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjI=");

/// A server of a cluster without nodes.
struct Server {
    folder: PathBuf,
    _running: Background,
}

impl Server {
    /// Starts it; the first of `keys` writes.
    fn start(folder: &Path, etcd: &Etcd, keys: &[(&str, &str)]) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let listed: Vec<String> = (keys.iter())
            .map(|(name, secret)| format!("{{name: {name}, secret: '{secret}'}}"))
            .collect();
        let configuration = folder.join("encryption.yaml");
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  \
             providers: [{{aesgcm: {{keys: [{}]}}}}, {{identity: {{}}}}]\n",
            listed.join(", ")
        );
        std::fs::write(&configuration, text)?;
        let listen = SocketAddr::from(([127, 0, 0, 1], free_ports(1)?));
        let binary = std::env::var_os("WAGGLE_BIN").context("WAGGLE_BIN is not set")?;
        let kubeconfig = folder.join("data/admin.kubeconfig");
        match std::fs::remove_file(&kubeconfig) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let running = Background::start(
            Command::new(binary)
                .args(["server", "--store", &format!("etcd={}", etcd.urls())])
                .arg("--data")
                .arg(folder.join("data"))
                .args(["--listen", &listen.to_string()])
                .args(["--peer", &listen.to_string()])
                .arg("--encryption-provider-config")
                .arg(&configuration),
        )?;
        let server = Self {
            folder: folder.to_owned(),
            _running: running,
        };
        eventually("a server answers", SETTLE, || {
            server.kubectl(&["get", "--raw", "/readyz"])
        })?;
        Ok(server)
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let config = self.folder.join("data/admin.kubeconfig");
        run(&mut kubectl(&config, arguments)?, SETTLE)?.ok()
    }

    /// The Secret's value as this server reads it.
    fn pin(&self, name: &str) -> Result<()> {
        let path = "jsonpath={.data.pin}";
        let said = self.kubectl(&["get", "secret", name, "-o", path])?;
        ensure!(said == PIN_BASE64, "{name} is {said:?}");
        Ok(())
    }

    fn create(&self, name: &str) -> Result<()> {
        let literal = format!("--from-literal=pin={PIN}");
        let create = ["create", "secret", "generic", name, &literal];
        eventually("a Secret is taken", SETTLE, || self.kubectl(&create)).map(drop)
    }
}

/// What the etcd answers below a key: keys and values.
fn raw(etcd: &Etcd, below: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let mut client = Client::connect([etcd.urls()], None).await?;
        let answer = client
            .get(below, Some(GetOptions::new().with_prefix()))
            .await?;
        let entry = |one: &etcd_client::KeyValue| {
            let key = String::from_utf8_lossy(one.key()).into_owned();
            (key, one.value().to_vec())
        };
        Ok(answer.kvs().iter().map(entry).collect())
    })
}

/// Every one of them is sealed by the key of that name.
fn sealed_by(etcd: &Etcd, below: &str, key: &str) -> Result<usize> {
    let entries = raw(etcd, below)?;
    let prefix = format!("k8s:enc:aesgcm:v1:{key}:");
    for (place, value) in &entries {
        let start = String::from_utf8_lossy(&value[..value.len().min(40)]).into_owned();
        ensure!(
            value.starts_with(prefix.as_bytes()),
            "{place} begins with {start:?}, not with {prefix:?}"
        );
    }
    Ok(entries.len())
}

/// Files below a folder that hold a text.
fn files_with(folder: &Path, text: &[u8]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files_with(&path, text)?);
        } else if std::fs::read(&path)?
            .windows(text.len())
            .any(|part| part == text)
        {
            found.push(path);
        }
    }
    Ok(found)
}

pub(crate) fn at_rest(_: &World) -> Result<()> {
    let (etcd, folder) = (Etcd::start(1)?, tempfile::tempdir()?);
    let place = |name: &str| folder.path().join(name);
    eventually("the etcd answers", SETTLE, || etcd.answers(0))?;

    let first = Server::start(&place("a"), &etcd, &[OLD])?;
    let second = Server::start(&place("b"), &etcd, &[OLD])?;
    first.create("one")?;
    second.create("two")?;
    for server in [&first, &second] {
        server.pin("one")?;
        server.pin("two")?;
    }
    ensure!(sealed_by(&etcd, SECRETS, OLD.0)? >= 2, "no Secrets");
    ensure!(sealed_by(&etcd, KEYS, OLD.0)? > 0, "no keys");
    // The search is one that finds.
    first.kubectl(&[
        "create",
        "configmap",
        "plain",
        "--from-literal=said=in the open",
    ])?;
    ensure!(
        !files_with(etcd.folder(), b"in the open")?.is_empty(),
        "nothing is found in the etcd's files"
    );
    for text in [PIN, PIN_BASE64] {
        let found = files_with(etcd.folder(), text.as_bytes())?;
        ensure!(found.is_empty(), "{text:?} is in {found:?}");
    }

    // Every server can read by the new key before any writes by it.
    drop(second);
    let second = Server::start(&place("b"), &etcd, &[OLD, NEW])?;
    drop(first);
    let first = Server::start(&place("a"), &etcd, &[OLD, NEW])?;
    second.pin("one")?;
    first.pin("two")?;
    drop(second);
    let second = Server::start(&place("b"), &etcd, &[NEW, OLD])?;
    drop(first);
    let first = Server::start(&place("a"), &etcd, &[NEW, OLD])?;
    // Whoever leads now has written anew what the old key had sealed.
    eventually("the new key seals everything", SETTLE, || {
        sealed_by(&etcd, SECRETS, NEW.0)?;
        sealed_by(&etcd, KEYS, NEW.0)
    })?;
    first.create("three")?;

    // And the old one can go.
    drop((first, second));
    let first = Server::start(&place("a"), &etcd, &[NEW])?;
    let second = Server::start(&place("b"), &etcd, &[NEW])?;
    for server in [&first, &second] {
        for name in ["one", "two", "three"] {
            server.pin(name)?;
        }
    }
    for text in [PIN, PIN_BASE64] {
        let found = files_with(etcd.folder(), text.as_bytes())?;
        ensure!(found.is_empty(), "{text:?} is in {found:?}");
    }
    Ok(())
}
