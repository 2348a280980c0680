//! What the tests share: an image with busybox, and a node's runtime of their own that leaves nothing behind.

#![allow(dead_code, reason = "every test program uses a part of it")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use waggle_runtime::RuntimeError;
use waggle_runtime::client::Client;
use waggle_runtime::images::{Image, ImageStore};
use waggle_runtime::logs::{self, LogQuery};
use waggle_runtime::spec::{
    ContainerPhase, ContainerSpec, ContainerState, ExecSpec, ResourceSpec, SandboxSpec, UserSpec,
};
use waggle_runtime::supervisor::{self, SupervisorOptions};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_waggle-runtime-testd");

/// A node's runtime for one test.
pub(crate) struct Node {
    pub(crate) options: SupervisorOptions,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) client: Client,
    pub(crate) image: Image,
}

impl Node {
    pub(crate) async fn start(name: &str) -> Node {
        let dir = tempfile::Builder::new()
            .prefix("wgt-runtime-")
            .tempdir()
            .unwrap();
        let mut options =
            SupervisorOptions::new(dir.path().join("runtime"), format!("wgt-runtime-{name}"));
        options.program = Some(PROGRAM.into());
        let layout = layout(
            dir.path(),
            &[("busybox.tar", &busybox_layer())],
            &config(&[]),
        );
        let store = ImageStore::open(dir.path().join("images")).unwrap();
        store.import(&layout, Some("busybox:1")).await.unwrap();
        let image = store.resolve("busybox:1").unwrap().unwrap();
        let client = connect(&options).await;
        Node {
            options,
            dir,
            client,
            image,
        }
    }

    pub(crate) async fn sandbox(&self, pod: &str) -> waggle_runtime::spec::Sandbox {
        let spec = SandboxSpec {
            pod: pod.into(),
            namespace: "default".into(),
            name: pod.into(),
            hostname: format!("host-{pod}"),
            host_network: false,
            host_ipc: false,
            share_pid: false,
            sysctls: Vec::new(),
        };
        self.client.create_sandbox(spec).await.unwrap()
    }

    pub(crate) fn container(&self, pod: &str, name: &str, script: &str) -> ContainerSpec {
        ContainerSpec {
            pod: pod.into(),
            name: name.into(),
            attempt: 0,
            layers: self.image.layers.clone(),
            read_only_root: false,
            args: ["/bin/sh", "-c", script].map(String::from).into(),
            env: vec!["GREETING=hello".into()],
            cwd: "/".into(),
            user: UserSpec::default(),
            mounts: Vec::new(),
            resources: ResourceSpec::default(),
            capabilities: ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"]
                .map(String::from)
                .into(),
            no_new_privileges: false,
            privileged: false,
            seccomp_default: true,
            seccomp_profile: None,
            host_pid: false,
            pid_of: None,
            tty: false,
            stdin: false,
            stdin_once: false,
            log_path: self
                .dir
                .path()
                .join("logs")
                .join(pod)
                .join(name)
                .join("0.log"),
            oom_score_adj: 0,
            annotations: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
        }
    }

    /// Creates and starts.
    pub(crate) async fn run(&self, spec: ContainerSpec) -> ContainerState {
        self.client.run_container(spec).await.unwrap()
    }

    pub(crate) async fn state(&self, pod: &str, name: &str) -> Option<ContainerState> {
        let (_, containers) = self.client.list().await.unwrap();
        containers
            .into_iter()
            .find(|c| c.spec.pod == pod && c.spec.name == name)
    }

    /// The end of a container: code, signal, out of memory.
    pub(crate) async fn ended(&self, pod: &str, name: &str) -> (i32, Option<i32>, bool) {
        let mut events = self.client.events().await.unwrap();
        let wait = async {
            while let Some(state) = events.next().await {
                if let ContainerPhase::Exited {
                    code,
                    signal,
                    oom_killed,
                    ..
                } = state.phase
                    && state.spec.pod == pod
                    && state.spec.name == name
                {
                    return (code, signal, oom_killed);
                }
            }
            panic!("the events ended");
        };
        tokio::time::timeout(Duration::from_secs(30), wait)
            .await
            .expect("it ends")
    }

    pub(crate) async fn log(&self, pod: &str, name: &str) -> String {
        let path = self.log_file(pod, name);
        let parts: Vec<_> = logs::read(path, LogQuery::default(), Default::default())
            .map(Result::unwrap)
            .collect()
            .await;
        String::from_utf8(parts.concat()).unwrap()
    }

    /// The lines of one stream as the file has them, without their stamps. Lines keep their order within a
    /// stream only: the two streams are two pipes.
    pub(crate) fn stream(&self, pod: &str, name: &str, stream: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.log_file(pod, name)).unwrap();
        text.lines()
            .filter_map(|line| line.split_once(' ')?.1.strip_prefix(stream))
            .map(|rest| rest.trim_start().to_owned())
            .collect()
    }

    fn log_file(&self, pod: &str, name: &str) -> PathBuf {
        let logs = self.dir.path().join("logs");
        logs.join(pod).join(name).join("0.log")
    }

    /// Waits until a log holds something.
    pub(crate) async fn log_with(&self, pod: &str, name: &str, text: &str) -> String {
        for _ in 0..1500 {
            let log = self.log(pod, name).await;
            if log.contains(text) {
                return log;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!(
            "no {text:?} in the log of {pod}/{name}: {:?}",
            self.log(pod, name).await
        );
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let log =
            std::fs::read_to_string(self.options.data.join("supervisor.log")).unwrap_or_default();
        if !log.is_empty() {
            eprintln!("--- supervisor\n{log}");
        }
        let result = supervisor::destroy(&self.options);
        if !std::thread::panicking() {
            result.unwrap();
            assert_eq!(leftovers(&self.options), Vec::<String>::new());
        }
        for folder in cgroups(&self.options) {
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// What a destroyed runtime must not leave.
fn leftovers(options: &SupervisorOptions) -> Vec<String> {
    let data = options.data.to_str().unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut left: Vec<String> = mounts
        .lines()
        .filter(|l| l.contains(data))
        .map(String::from)
        .collect();
    for folder in cgroups(options) {
        left.extend(
            std::fs::read_dir(&folder)
                .unwrap()
                .flatten()
                .filter(|e| e.path().is_dir())
                .map(|e| e.path().display().to_string()),
        );
    }
    left
}

fn cgroups(options: &SupervisorOptions) -> Vec<PathBuf> {
    waggle_runtime::cgroup::Cgroups::detect()
        .unwrap()
        .folders(&options.cgroup)
        .into_iter()
        .filter(|f| f.is_dir())
        .collect()
}

/// Again when the supervisor that answered is gone by the time it is connected to: one whose keeper died becomes the
/// keeper of the next.
pub(crate) async fn connect(options: &SupervisorOptions) -> Client {
    for _ in 0..100 {
        let owned = options.clone();
        tokio::task::spawn_blocking(move || supervisor::ensure_running(&owned))
            .await
            .unwrap()
            .unwrap();
        match Client::connect(options.socket()).await {
            Err(RuntimeError::Unreachable { .. }) => {}
            other => return other.unwrap(),
        }
    }
    panic!("no supervisor stays at {}", options.data.display());
}

/// A layer with a static busybox, its links, and a few folders.
pub(crate) fn busybox_layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for folder in ["bin", "etc", "tmp", "proc", "dev", "sys"] {
        entry(
            &mut tar,
            tar::EntryType::Directory,
            folder,
            if folder == "tmp" { 0o1777 } else { 0o755 },
            "",
            b"",
        );
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .find_map(|p| std::fs::read(p).ok())
        .expect("busybox-static");
    entry(
        &mut tar,
        tar::EntryType::Regular,
        "bin/busybox",
        0o755,
        "",
        &busybox,
    );
    for name in [
        "sh", "true", "false", "sleep", "echo", "cat", "id", "hostname", "ls", "head", "dd",
        "kill", "mount", "stty", "touch", "mkdir", "seq", "unshare", "test", "grep", "ip", "nc",
        "env", "yes", "chroot", "wc", "tail",
    ] {
        entry(
            &mut tar,
            tar::EntryType::Symlink,
            &format!("bin/{name}"),
            0o777,
            "busybox",
            b"",
        );
    }
    entry(
        &mut tar,
        tar::EntryType::Regular,
        "etc/passwd",
        0o644,
        "",
        b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/:/bin/sh\n",
    );
    tar.into_inner().unwrap()
}

pub(crate) fn entry(
    tar: &mut tar::Builder<Vec<u8>>,
    kind: tar::EntryType,
    path: &str,
    mode: u32,
    link: &str,
    content: &[u8],
) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(content.len() as u64);
    header.set_mtime(1_700_000_000);
    if !link.is_empty() {
        header.set_link_name(link).unwrap();
    }
    // Past the checks of the library: some of these paths are meant to be hostile.
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.set_cksum();
    tar.append(&header, content).unwrap();
}

pub(crate) fn config(env: &[&str]) -> serde_json::Value {
    serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Env": env, "Cmd": ["/bin/sh"], "User": "app", "WorkingDir": "/tmp"},
        "rootfs": {"type": "layers", "diff_ids": []},
    })
}

/// Writes an OCI layout with these layers, gzipped but for names that end in `.tar`.
pub(crate) fn layout(dir: &Path, layers: &[(&str, &[u8])], config: &serde_json::Value) -> PathBuf {
    let root = dir.join("layout");
    let blobs = root.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let hex = format!("{:x}", Sha256::digest(bytes));
        std::fs::write(blobs.join(&hex), bytes).unwrap();
        format!("sha256:{hex}")
    };
    let mut config = config.clone();
    let mut descriptors = Vec::new();
    let mut diff_ids = Vec::new();
    for (name, layer) in layers {
        diff_ids.push(format!("sha256:{:x}", Sha256::digest(layer)));
        let (bytes, suffix) = if name.ends_with(".tar") {
            (layer.to_vec(), "")
        } else {
            (gzip(layer), "+gzip")
        };
        let media = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
        descriptors.push(
            serde_json::json!({"mediaType": media, "digest": put(&bytes), "size": bytes.len()}),
        );
    }
    config["rootfs"]["diff_ids"] = diff_ids.into();
    let config = serde_json::to_vec(&config).unwrap();
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": put(&config), "size": config.len()},
        "layers": descriptors,
    }))
    .unwrap();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": put(&manifest), "size": manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": "1.0"},
    }]});
    std::fs::write(root.join("index.json"), index.to_string()).unwrap();
    std::fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    root
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn exec(pod: &str, container: &str, script: &str) -> ExecSpec {
    ExecSpec {
        pod: pod.into(),
        container: container.into(),
        args: ["/bin/sh", "-c", script].map(String::from).into(),
        tty: false,
        stdin: false,
        env: Vec::new(),
        terminal_size: None,
    }
}

/// Runs to the end: exit code, stdout, stderr.
pub(crate) async fn output(node: &Node, spec: ExecSpec) -> (i32, String, String) {
    let mut session = node.client.exec(spec).await.unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    let (mut stdout, mut stderr) = (session.stdout.take().unwrap(), session.stderr.take());
    let (a, b) = tokio::join!(stdout.read_to_string(&mut out), async {
        match &mut stderr {
            Some(stderr) => stderr.read_to_string(&mut err).await,
            None => Ok(0),
        }
    });
    a.unwrap();
    b.unwrap();
    (session.wait().await.unwrap(), out, err)
}

pub(crate) fn parent_of(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}
