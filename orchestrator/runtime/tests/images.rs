//! Images from files and from a real registry (Debian's docker-registry on 127.0.0.1), and what hostile ones may do.
//! Needs root.

mod support;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use support::{busybox_layer, config, entry, gzip, layout};
use tar::EntryType;
use waggle_runtime::images::{ImageError, ImageStore, LayerState, PullOptions, Stocked};

fn tar(entries: &[(EntryType, &str, u32, &str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (kind, path, mode, link, content) in entries {
        entry(&mut tar, *kind, path, *mode, link, content);
    }
    tar.into_inner().unwrap()
}

async fn import(
    layers: &[(&str, &[u8])],
) -> (
    tempfile::TempDir,
    ImageStore,
    Result<Vec<String>, ImageError>,
) {
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(dir.path(), layers, &config(&["A=1"]));
    let store = ImageStore::open(dir.path().join("store")).unwrap();
    let result = store.import(layout, Some("t:1")).await;
    (dir, store, result)
}

#[tokio::test]
async fn layers_become_what_overlayfs_stacks() {
    let layer = tar(&[
        (EntryType::Directory, "./", 0o755, "", b""),
        (EntryType::Directory, "etc/", 0o750, "", b""),
        (EntryType::Regular, "etc/.wh.gone", 0o644, "", b""),
        (EntryType::Regular, "etc/.wh..wh..opq", 0o644, "", b""),
        (EntryType::Regular, "usr/bin/tool", 0o4755, "", b"program"),
        (EntryType::Symlink, "bin", 0o777, "usr/bin", b""),
        (
            EntryType::Regular,
            "bin/other",
            0o755,
            "",
            b"through the link",
        ),
        (EntryType::Link, "usr/bin/same", 0o755, "usr/bin/tool", b""),
        (EntryType::Symlink, "abs", 0o777, "/etc/passwd", b""),
        (EntryType::Regular, "abs", 0o600, "", b"replaces the link"),
        (EntryType::Fifo, "pipe", 0o600, "", b""),
    ]);
    let (_dir, store, names) = import(&[("a", &layer)]).await;
    assert_eq!(names.unwrap(), ["docker.io/library/t:1"]);
    let image = store.resolve("t:1").unwrap().unwrap();
    assert_eq!(
        (image.config.user.as_str(), image.config.env.as_slice()),
        ("app", ["A=1".to_owned()].as_slice())
    );
    let root = &image.layers[0];
    let meta = |path: &str| std::fs::symlink_metadata(root.join(path)).unwrap();
    assert_eq!(meta("etc").permissions().mode() & 0o7777, 0o750);
    assert!(meta("etc/gone").file_type().is_char_device() && meta("etc/gone").rdev() == 0);
    assert_eq!(
        xattr::get(root.join("etc"), "trusted.overlay.opaque")
            .unwrap()
            .as_deref(),
        Some(&b"y"[..])
    );
    assert_eq!(meta("usr/bin/tool").permissions().mode() & 0o7777, 0o4755);
    assert_eq!(meta("usr/bin/tool").ino(), meta("usr/bin/same").ino());
    assert_eq!(meta("usr/bin/tool").mtime(), 1_700_000_000);
    assert!(root.join("usr/bin/other").is_file());
    assert_eq!(
        std::fs::read(root.join("abs")).unwrap(),
        b"replaces the link"
    );
    assert!(meta("abs").is_file() && meta("pipe").file_type().is_fifo());
}

#[tokio::test]
async fn hostile_archives_are_refused_or_stay_inside() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    std::fs::write(&victim, "safe").unwrap();
    let out = outside.path().to_str().unwrap();
    let climb = format!("../../../../../../../..{out}");
    let inside = format!("l/{}", "victim");
    for (entries, refused) in [
        (vec![(EntryType::Regular, "../victim", "")], true),
        (vec![(EntryType::Regular, "a/../../victim", "")], true),
        (vec![(EntryType::Link, "x", "../../victim")], true),
        (
            vec![
                (EntryType::Symlink, "l", out),
                (EntryType::Regular, inside.as_str(), ""),
            ],
            true,
        ),
        (
            vec![
                (EntryType::Symlink, "l", climb.as_str()),
                (EntryType::Regular, inside.as_str(), ""),
            ],
            true,
        ),
        (
            vec![
                (EntryType::Symlink, "l", "l"),
                (EntryType::Regular, "l/x", ""),
            ],
            true,
        ),
        // Lands in the layer's own folder of that name.
        (
            vec![
                (EntryType::Directory, &out[1..], ""),
                (EntryType::Symlink, "l", climb.as_str()),
                (EntryType::Regular, inside.as_str(), ""),
            ],
            false,
        ),
    ] {
        let entries: Vec<_> = entries
            .iter()
            .map(|(k, p, l)| (*k, *p, 0o644, *l, &b"evil"[..]))
            .collect();
        let entries: Vec<_> = entries
            .into_iter()
            .map(|(k, p, m, l, c)| (k, p, m, l, if k == EntryType::Regular { c } else { b"" }))
            .collect();
        let (_dir, store, result) = import(&[("a", &tar(&entries))]).await;
        assert_eq!(result.is_err(), refused, "{entries:?}: {result:?}");
        assert_eq!(
            std::fs::read_to_string(&victim).unwrap(),
            "safe",
            "{entries:?}"
        );
        assert_eq!(store.list().unwrap().is_empty(), refused);
    }
}

#[tokio::test]
async fn archives_are_imported_compressed_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let layer = busybox_layer();
    let layout = layout(dir.path(), &[("a", &layer)], &config(&[]));
    let mut oci = tar::Builder::new(Vec::new());
    oci.append_dir_all(".", &layout).unwrap();
    let oci = oci.into_inner().unwrap();
    std::fs::write(dir.path().join("img.tar.gz"), gzip(&oci)).unwrap();
    let store = ImageStore::open(dir.path().join("store")).unwrap();
    assert_eq!(
        store
            .import(dir.path().join("img.tar.gz"), None)
            .await
            .unwrap(),
        ["docker.io/library/img:1.0"]
    );

    let mut config = config(&[]);
    config["rootfs"]["diff_ids"] = vec![format!("sha256:{}", hex(&layer))].into();
    let config = config.to_string();
    let rows = r#"[{"Config":"c.json","RepoTags":["one:1","two:2"],"Layers":["l/layer.tar"]}]"#;
    let docker = tar(&[
        (
            EntryType::Regular,
            "manifest.json",
            0o644,
            "",
            rows.as_bytes(),
        ),
        (EntryType::Regular, "c.json", 0o644, "", config.as_bytes()),
        (EntryType::Regular, "l/layer.tar", 0o644, "", &layer),
    ]);
    std::fs::write(dir.path().join("docker.tar"), docker).unwrap();
    let names = store
        .import(dir.path().join("docker.tar"), None)
        .await
        .unwrap();
    assert_eq!(
        names,
        ["docker.io/library/one:1", "docker.io/library/two:2"]
    );
    // The same layer once, whatever it was packed in.
    let layers: BTreeSet<PathBuf> = store
        .list()
        .unwrap()
        .into_iter()
        .flat_map(|i| i.layers)
        .collect();
    assert_eq!(layers.len(), 1);

    std::fs::write(dir.path().join("junk"), b"junk").unwrap();
    let error = store
        .import(dir.path().join("junk"), None)
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::Import { .. }), "{error}");
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    let error = store
        .import(dir.path().join("empty"), None)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("neither index.json nor manifest.json"),
        "{error}"
    );
}

fn hex(bytes: &[u8]) -> String {
    use sha2::Digest;
    format!("{:x}", sha2::Sha256::digest(bytes))
}

#[tokio::test]
async fn garbage_goes_and_what_is_kept_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path().join("store")).unwrap();
    let shared = busybox_layer();
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let own = tar(&[(EntryType::Regular, name, 0o644, "", name.as_bytes())]);
        let layout = layout(
            &dir.path().join(name),
            &[("s", &shared), ("o", &own)],
            &config(&[name]),
        );
        store.import(layout, Some(name)).await.unwrap();
        ids.push(store.resolve(name).unwrap().unwrap().id);
    }
    let nobody = BTreeSet::new();
    let mut seen = Vec::new();
    let report = store.gc(&nobody, |stock| {
        seen = stock.to_vec();
        BTreeSet::new()
    });
    let report = report.unwrap();
    assert_eq!((report.images.len(), report.layers), (0, 0));
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|image| image.used == image.arrived));
    std::thread::sleep(Duration::from_millis(20));
    let first = BTreeSet::from([ids[0].clone()]);
    store.mark_used(&first).unwrap();
    let report = store.gc(&nobody, |stock| {
        for image in stock {
            assert_eq!(image.used > image.arrived, image.id == ids[0]);
            assert_eq!(image.layers.len(), 2);
        }
        let second = |image: &&Stocked| image.id == ids[1];
        stock.iter().filter(second).map(|i| i.id.clone()).collect()
    });
    let report = report.unwrap();
    assert_eq!(
        (report.images.as_slice(), report.layers, report.bytes),
        (&ids[1..], 1, 3)
    );
    assert!(store.resolve("two").unwrap().is_none());
    let one = store.resolve("one").unwrap().unwrap();
    assert!(one.layers.iter().all(|l| l.is_dir()));
    assert!(store.remove("one").unwrap());
    assert!(!store.remove("one").unwrap());
    let none = |_: &[Stocked]| BTreeSet::new();
    let held = BTreeSet::from([one.layers[1].clone()]);
    assert_eq!(
        store.gc(&held, none).unwrap().layers,
        1,
        "a container has it"
    );
    assert_eq!(store.gc(&nobody, none).unwrap().layers, 1);
    assert_eq!(
        std::fs::read_dir(dir.path().join("store/layers"))
            .unwrap()
            .count(),
        0
    );
}

/// A registry process with a folder of its own.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    fn start(dir: &Path) -> Registry {
        Registry::start_with(dir, "", "")
    }

    /// With more configuration: below `http`, and at the top.
    fn start_with(dir: &Path, http: &str, top: &str) -> Registry {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let address = format!("127.0.0.1:{port}");
        let root = dir.join("registry");
        let file = dir.join("registry.yml");
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n{http}{top}",
            root.display()
        );
        std::fs::write(&file, text).unwrap();
        let child = Command::new("docker-registry")
            .args(["serve", file.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Registry { child, address };
        for _ in 0..500 {
            if std::net::TcpStream::connect(&registry.address).is_ok() {
                return registry;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the registry doesn't answer");
    }

    fn push(&self, layout: &Path, name: &str) {
        self.push_as(layout, name, &[]);
    }

    fn push_as(&self, layout: &Path, name: &str, more: &[&str]) {
        let output = Command::new("skopeo")
            .args(["copy", "--insecure-policy", "--dest-tls-verify=false"])
            .args(more)
            .arg(format!("oci:{}:1.0", layout.display()))
            .arg(format!("docker://{}/{name}", self.address))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn images_are_pulled_from_a_registry() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let extra = tar(&[(EntryType::Regular, "hello", 0o644, "", b"hello")]);
    let layout = layout(
        dir.path(),
        &[("a", &busybox_layer()), ("b", &extra)],
        &config(&["B=2"]),
    );
    registry.push(&layout, "test/app:1.0");
    let store = ImageStore::open(dir.path().join("store")).unwrap();
    let name = format!("{}/test/app:1.0", registry.address);
    let seen = Mutex::new(Vec::new());
    let options = PullOptions::default();
    let image = store
        .pull(&name, &options, |p| seen.lock().unwrap().push(p))
        .await
        .unwrap();
    assert_eq!(
        std::fs::read(image.layers[1].join("hello")).unwrap(),
        b"hello"
    );
    assert_eq!(
        (image.names.as_slice(), image.config.env.as_slice()),
        (&[name.clone()][..], &["B=2".to_owned()][..])
    );
    let done = seen
        .lock()
        .unwrap()
        .iter()
        .filter(|p| p.state == LayerState::Done)
        .count();
    assert_eq!(done, 2);
    assert_eq!(store.resolve(&name).unwrap().unwrap(), image);
    let digest = image.manifest_digest.clone().unwrap();
    assert_eq!(
        store
            .resolve(&format!("{}/test/app@{digest}", registry.address))
            .unwrap()
            .unwrap()
            .id,
        image.id
    );

    seen.lock().unwrap().clear();
    let again = store
        .pull(&name, &options, |p| seen.lock().unwrap().push(p))
        .await
        .unwrap();
    assert_eq!(again, image);
    assert!(
        seen.lock()
            .unwrap()
            .iter()
            .all(|p| p.state == LayerState::Exists)
    );

    let missing = format!("{}/test/app:9", registry.address);
    let error = store.pull(&missing, &options, |_| {}).await.unwrap_err();
    assert!(
        matches!(error, ImageError::NotFound { .. }) && error.is_permanent(),
        "{error}"
    );
    let error = store
        .pull("127.0.0.1:1/x:1", &options, |_| {})
        .await
        .unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");

    // A layer that was changed in the registry is noticed, and nothing of it stays.
    let blobs = dir.path().join("registry/docker/registry/v2/blobs/sha256");
    let largest = walk(&blobs)
        .into_iter()
        .max_by_key(|p| std::fs::metadata(p).unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&largest, bytes).unwrap();
    let other = ImageStore::open(dir.path().join("other")).unwrap();
    let error = other.pull(&name, &options, |_| {}).await.unwrap_err();
    assert!(
        matches!(error, ImageError::Digest { .. } | ImageError::Layer { .. }),
        "{error}"
    );
    assert!(other.list().unwrap().is_empty());
    assert_eq!(
        std::fs::read_dir(dir.path().join("other/tmp"))
            .unwrap()
            .count(),
        0
    );
}

/// Passes connections on to a registry, and breaks each of the first ones off after so many bytes of answers.
fn cutting_proxy(target: String, cuts: usize, after: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let left = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(cuts));
        for client in listener.incoming().map_while(Result::ok) {
            let server = std::net::TcpStream::connect(&target).unwrap();
            let (up, down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut &up, &mut &down));
            let left = left.clone();
            std::thread::spawn(move || pass(server, client, &left, after));
        }
    });
    address
}

fn pass(
    mut server: std::net::TcpStream,
    mut client: std::net::TcpStream,
    left: &std::sync::atomic::AtomicUsize,
    after: usize,
) {
    use std::io::{Read, Write};
    use std::sync::atomic::Ordering;
    let (mut buffer, mut passed) = ([0; 4096], 0);
    while let Ok(n @ 1..) = server.read(&mut buffer) {
        if client.write_all(&buffer[..n]).is_err() {
            break;
        }
        passed += n;
        let cut = |n: usize| n.checked_sub(1);
        if passed > after
            && left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, cut)
                .is_ok()
        {
            break;
        }
    }
    let _ = client.shutdown(std::net::Shutdown::Both);
    let _ = server.shutdown(std::net::Shutdown::Both);
}

#[tokio::test]
async fn a_layer_that_breaks_off_is_taken_up_again() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    // Nothing that compresses, so that it has to come in many pieces.
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    })
    .take(4 << 20)
    .collect();
    let layer = tar(&[(EntryType::Regular, "noise", 0o644, "", &noise)]);
    let layout = layout(dir.path(), &[("a", &layer)], &config(&[]));
    registry.push(&layout, "test/noise:1.0");
    let proxy = cutting_proxy(registry.address.clone(), 3, 1 << 20);
    let store = ImageStore::open(dir.path().join("store")).unwrap();
    let seen = Mutex::new(Vec::new());
    let image = store
        .pull(
            &format!("{proxy}/test/noise:1.0"),
            &PullOptions::default(),
            |p| seen.lock().unwrap().push(p),
        )
        .await
        .unwrap();
    assert_eq!(std::fs::read(image.layers[0].join("noise")).unwrap(), noise);
    // No byte came twice.
    let furthest = seen
        .lock()
        .unwrap()
        .iter()
        .map(|p| match p.state {
            LayerState::Fetching { done, total } => (done, total),
            _ => (0, 0),
        })
        .max();
    let (done, total) = furthest.unwrap();
    assert_eq!(done, total);
}

#[tokio::test]
async fn a_registry_with_tls_a_password_and_a_mirror() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    // bcrypt of "pass:word".
    let users = "me:$2b$04$abcdefghijklmnopqrstuu7govE5p0NSk1WUEk5C2Qm3hpPC6VJ66\n";
    let htpasswd = dir.path().join("htpasswd");
    std::fs::write(&htpasswd, users).unwrap();
    let http = format!(
        "  tls:\n    certificate: {}\n    key: {}\n",
        cert.display(),
        key.display()
    );
    let top = format!(
        "auth:\n  htpasswd:\n    realm: r\n    path: {}\n",
        htpasswd.display()
    );
    let registry = Registry::start_with(dir.path(), &http, &top);
    let layout = layout(dir.path(), &[("a", &busybox_layer())], &config(&[]));
    registry.push_as(&layout, "test/app:1.0", &["--dest-creds", "me:pass:word"]);
    // Loopback is spoken to without TLS unless it is named otherwise.
    let port = registry.address.rsplit(':').next().unwrap();
    let name = format!("{}/test/app:1.0", registry.address);
    let known = dir.path().join("registries");
    let own = known.join(format!("127.0.0.1:{port}"));
    std::fs::create_dir_all(&own).unwrap();
    std::fs::copy(&cert, own.join("ca.crt")).unwrap();
    let credentials = |password: &str| {
        Some(waggle_runtime::images::Credentials {
            username: "me".into(),
            password: password.into(),
        })
    };
    let mut options = PullOptions {
        registries: Some(known.clone()),
        credentials: credentials("wrong"),
        ..PullOptions::default()
    };
    let store = ImageStore::open(dir.path().join("store")).unwrap();
    let error = store.pull(&name, &options, |_| {}).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    options.credentials = credentials("pass:word");
    store.pull(&name, &options, |_| {}).await.unwrap();

    // A mirror is asked first, without the password; when it has nothing, the registry itself.
    let second = tempfile::tempdir().unwrap();
    let mirror = Registry::start(second.path());
    mirror.push(&layout, "test/only:1.0");
    std::fs::write(own.join("mirrors"), format!("# near\n{}\n", mirror.address)).unwrap();
    let only = format!("{}/test/only:1.0", registry.address);
    let image = store.pull(&only, &options, |_| {}).await.unwrap();
    assert_eq!(image.names.iter().filter(|n| **n == only).count(), 1);
    let other = ImageStore::open(dir.path().join("other")).unwrap();
    other.pull(&name, &options, |_| {}).await.unwrap();
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        if entry.path().is_dir() {
            files.extend(walk(&entry.path()))
        } else {
            files.push(entry.path())
        }
    }
    files
}
