//! What `dev up` must know of a server: its arguments, the files it leaves in its data folder, when it is ready. The server
//! itself is the binary's `waggle server`.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use super::layout::{
    API_PORT, FABRIC_ADDRESS, LOAD_BALANCER_POOL, Layout, MAX_SERVERS, NODE_PORT, POD_CIDR,
    SERVICE_CIDR, fabric_port, netns_path, server_name,
};
use super::process::Started;
use crate::connect::Api;

/// What is kept of [`StoreArgs`] in the cluster's folder.
const FILE: &str = "servers.json";

/// Where servers keep the cluster's objects; what `waggle server` is told of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct StoreArgs {
    /// How many servers; more than one need --store
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_SERVERS)), requires = "store")]
    servers: Option<u16>,
    /// Where the servers keep the cluster's objects, etcd=URL,...; an etcd is yours to run
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    /// As of `waggle server`
    #[arg(long, value_name = "FILE", requires = "store")]
    etcd_ca: Option<PathBuf>,
    /// As of `waggle server`
    #[arg(long, value_name = "FILE", requires = "store")]
    etcd_cert: Option<PathBuf>,
    /// As of `waggle server`
    #[arg(long, value_name = "FILE", requires = "store")]
    etcd_key: Option<PathBuf>,
}

impl StoreArgs {
    /// How many servers there are to be.
    pub(crate) fn servers(&self) -> u16 {
        self.servers.unwrap_or(1)
    }

    /// These, kept for later runs; without any, those of an earlier run.
    pub(crate) fn or_known(self, layout: &Layout) -> Result<Self> {
        let known = Self::known(layout)?;
        let (had, name) = (known.servers(), &layout.name);
        if self.store.is_none() {
            return Ok(known);
        }
        if layout.server_dir().exists() && known.store != self.store {
            bail!(
                "the cluster {name} keeps its objects elsewhere: run `waggle dev down` before you give it another --store"
            );
        }
        if self.servers() < had {
            bail!(
                "the cluster {name} has {had} servers: --servers can add to them; to have fewer, run `waggle dev down` first"
            );
        }
        self.keep(layout)
    }

    /// Those of an earlier run.
    fn known(layout: &Layout) -> Result<Self> {
        let path = layout.dir.join(FILE);
        let Ok(text) = std::fs::read_to_string(&path) else {
            return Ok(Self::default());
        };
        let known: Value = serde_json::from_str(&text)
            .with_context(|| format!("{} is not complete", path.display()))?;
        let word = |field: &str| known[field].as_str().map(str::to_owned);
        Ok(Self {
            servers: known["servers"]
                .as_u64()
                .and_then(|many| many.try_into().ok()),
            store: word("store"),
            etcd_ca: word("ca").map(PathBuf::from),
            etcd_cert: word("cert").map(PathBuf::from),
            etcd_key: word("key").map(PathBuf::from),
        })
    }

    fn keep(self, layout: &Layout) -> Result<Self> {
        let absolute = |path: Option<PathBuf>| path.map(std::path::absolute).transpose();
        let args = Self {
            etcd_ca: absolute(self.etcd_ca)?,
            etcd_cert: absolute(self.etcd_cert)?,
            etcd_key: absolute(self.etcd_key)?,
            ..self
        };
        let known = json!({"servers": args.servers, "store": args.store, "ca": args.etcd_ca,
            "cert": args.etcd_cert, "key": args.etcd_key});
        std::fs::create_dir_all(&layout.dir)
            .with_context(|| format!("cannot make {}", layout.dir.display()))?;
        write_private(&layout.dir.join(FILE), &known.to_string())?;
        Ok(args)
    }
}

/// Port of a server's API on loopback, when the first has `api_port`.
pub(crate) fn loopback_port(api_port: u16, server: u16) -> u16 {
    api_port.saturating_add(server - 1)
}

/// Arguments of `waggle` that run one of this cluster's servers.
pub(crate) fn arguments(
    layout: &Layout,
    api_port: u16,
    server: u16,
    store: &StoreArgs,
) -> Vec<OsString> {
    let netns = netns_path(&layout.fabric());
    let inside = |first: u16| {
        let port = fabric_port(first, server);
        format!("{FABRIC_ADDRESS}:{port}@{}", netns.display()).into()
    };
    let loopback: OsString = format!(
        "{}:{}",
        Ipv4Addr::LOCALHOST,
        loopback_port(api_port, server)
    )
    .into();
    let mut arguments: Vec<OsString> = vec![
        "server".into(),
        "--data".into(),
        layout.dir.join(server_name(server)).into(),
        "--listen".into(),
        loopback.clone(),
        "--listen".into(),
        inside(API_PORT),
        "--node-listen".into(),
        inside(NODE_PORT),
        "--pod-cidr".into(),
        POD_CIDR.into(),
        "--node-cidr-mask-size".into(),
        layout.node_prefix().to_string().into(),
        "--service-cidr".into(),
        SERVICE_CIDR.into(),
        "--load-balancer-pool".into(),
        LOAD_BALANCER_POOL.into(),
    ];
    if let Some(etcd) = &store.store {
        arguments.extend(["--store".into(), etcd.into(), "--peer".into(), loopback]);
    }
    let files = [
        ("--etcd-ca", &store.etcd_ca),
        ("--etcd-cert", &store.etcd_cert),
        ("--etcd-key", &store.etcd_key),
    ];
    for (option, file) in files {
        if let Some(file) = file {
            arguments.extend([option.into(), file.into()]);
        }
    }
    arguments
}

/// Refuses a port that somebody else listens on; `mend` says how to choose another.
pub(crate) fn check_port(address: SocketAddr, mend: &str) -> Result<()> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!(
                "port {} of {} is in use by another program: {mend}",
                address.port(),
                address.ip()
            )
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on {address}")),
    }
}

/// Waits until the API answers that it is ready, writes the cluster's kubeconfig and gives back a connection.
pub(crate) async fn wait_ready(
    layout: &Layout,
    api_port: u16,
    started: Option<&mut Started>,
    limit: Duration,
) -> Result<Api> {
    let deadline = Instant::now() + limit;
    let mut started = started;
    let mut last = anyhow!("it has not written its kubeconfig yet");
    loop {
        if let Some(fault) = started.as_deref_mut().and_then(Started::fault) {
            bail!("the server ended: {fault}");
        }
        match try_ready(layout, api_port).await {
            Ok(Some(api)) => return Ok(api),
            Ok(None) => {}
            Err(error) => last = error,
        }
        if Instant::now() > deadline {
            let seconds = limit.as_secs();
            return Err(last.context(format!(
                "the server is not ready after {seconds} s; log: {}",
                layout.log("server").display()
            )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn try_ready(layout: &Layout, api_port: u16) -> Result<Option<Api>> {
    let source = layout.server_dir().join("admin.kubeconfig");
    if !source.exists() || !layout.server_dir().join("join-token").exists() {
        return Ok(None);
    }
    write_kubeconfig(&source, &layout.kubeconfig(), api_port)?;
    let api = Api::from_file(&layout.kubeconfig(), None).await?;
    api.ready().await?;
    Ok(Some(api))
}

/// The server's own kubeconfig, aimed at the address on this machine's loopback.
fn write_kubeconfig(source: &Path, target: &Path, api_port: u16) -> Result<()> {
    let text = std::fs::read_to_string(source)
        .with_context(|| format!("cannot read {}", source.display()))?;
    let mut config: Value = serde_yaml_ng::from_str(&text)
        .with_context(|| format!("{} is not complete", source.display()))?;
    for cluster in config["clusters"].as_array_mut().into_iter().flatten() {
        cluster["cluster"]["server"] = format!("https://{}:{api_port}", Ipv4Addr::LOCALHOST).into();
    }
    let wanted = serde_yaml_ng::to_string(&config)?;
    if std::fs::read_to_string(target).is_ok_and(|text| text == wanted) {
        return Ok(());
    }
    write_private(target, &wanted)
}

/// Writes a file that only root may read, all or nothing.
fn write_private(target: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let fresh = target.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&fresh)
        .with_context(|| format!("cannot write {}", fresh.display()))?;
    file.write_all(text.as_bytes())
        .with_context(|| format!("cannot write {}", fresh.display()))?;
    std::fs::rename(&fresh, target).with_context(|| format!("cannot write {}", target.display()))
}

/// The token that nodes join with.
pub(crate) fn join_token(layout: &Layout) -> Result<String> {
    let path = layout.server_dir().join("join-token");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_remembered() {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::new(home.path(), "wgt-cli-store".try_into().unwrap()).unwrap();
        let none = StoreArgs::default();
        assert_eq!(none.clone().or_known(&layout).unwrap(), none);
        let given = StoreArgs {
            servers: Some(2),
            store: Some("etcd=https://a".into()),
            etcd_ca: Some("/ca".into()),
            ..StoreArgs::default()
        };
        assert_eq!(given.clone().or_known(&layout).unwrap(), given);
        assert_eq!(none.or_known(&layout).unwrap(), given);
        let fewer = StoreArgs {
            servers: Some(1),
            ..given.clone()
        };
        let fault = fewer.or_known(&layout).unwrap_err().to_string();
        assert!(
            fault.contains("has 2 servers") && fault.contains("dev down"),
            "{fault}"
        );
        std::fs::create_dir_all(layout.server_dir()).unwrap();
        assert_eq!(given.clone().or_known(&layout).unwrap(), given);
        let elsewhere = StoreArgs {
            store: Some("etcd=https://b".into()),
            ..given.clone()
        };
        let fault = elsewhere.or_known(&layout).unwrap_err().to_string();
        assert!(fault.contains("another --store"), "{fault}");
        let second = arguments(&layout, 7443, 2, &given);
        for word in [
            "--store",
            "etcd=https://a",
            "--peer",
            "127.0.0.1:7444",
            "/ca",
        ] {
            assert!(second.contains(&OsString::from(word)), "{second:?}");
        }
    }

    #[test]
    fn the_kubeconfig_points_at_loopback_and_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("a"), folder.path().join("kubeconfig"));
        std::fs::write(&source, "clusters: [{name: w, cluster: {server: 'https://172.30.0.1:6443', certificate-authority-data: eA==}}]\n").unwrap();
        write_kubeconfig(&source, &target, 7443).unwrap();
        let text = std::fs::read_to_string(&target).unwrap();
        assert!(
            text.contains("server: https://127.0.0.1:7443") && text.contains("eA=="),
            "{text}"
        );
        assert_eq!(
            std::fs::metadata(&target).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_port_in_use_is_named_with_its_mend() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let fault = check_port(address, "choose another with --api-port")
            .unwrap_err()
            .to_string();
        assert!(
            fault.contains(&address.port().to_string()) && fault.contains("--api-port"),
            "{fault}"
        );
        drop(listener);
        check_port(address, "choose another with --api-port").unwrap();
    }
}
