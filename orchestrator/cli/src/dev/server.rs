//! What `dev up` must know of a server: its arguments, the files it leaves in its data folder, when it is ready. The server
//! itself is the binary's `waggle server`.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use super::layout::{
    API_PORT, FABRIC_ADDRESS, LOAD_BALANCER_POOL, Layout, NODE_PORT, POD_CIDR, SERVICE_CIDR,
    netns_path,
};
use super::process::Started;
use crate::connect::Api;

/// Arguments of `waggle` that run this cluster's server.
pub(crate) fn arguments(layout: &Layout, api_port: u16) -> Vec<OsString> {
    let netns = netns_path(&layout.fabric());
    let inside = |port: u16| format!("{FABRIC_ADDRESS}:{port}@{}", netns.display()).into();
    vec![
        "server".into(),
        "--data".into(),
        layout.server_dir().into(),
        "--listen".into(),
        format!("{}:{api_port}", Ipv4Addr::LOCALHOST).into(),
        "--listen".into(),
        inside(API_PORT),
        "--node-listen".into(),
        inside(NODE_PORT),
        "--pod-cidr".into(),
        POD_CIDR.into(),
        "--service-cidr".into(),
        SERVICE_CIDR.into(),
        "--load-balancer-pool".into(),
        LOAD_BALANCER_POOL.into(),
    ]
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
