//! `waggle port-forward`: a local port that leads to a port of a pod, one WebSocket a connection.

use std::net::Ipv4Addr;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use crate::connect::{Api, Globals};
use crate::get::put;
use crate::logs::pod_of;

/// Arguments of `port-forward`.
#[derive(Debug, clap::Args)]
pub struct PortForwardArgs {
    /// POD, or TYPE/NAME such as service/user-center
    what: String,
    /// [LOCAL:]REMOTE; LOCAL may be empty for any free port
    #[arg(required = true)]
    ports: Vec<Ports>,
}

/// Local and remote port; 0 asks for any free local port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    local: u16,
    remote: u16,
}

impl std::str::FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not [LOCAL:]REMOTE, as in 8080:80");
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        match text.split_once(':') {
            Some(("", remote)) => Ok(Self {
                local: 0,
                remote: port(remote).ok_or_else(wrong)?,
            }),
            Some((local, remote)) => Ok(Self {
                local: port(local).ok_or_else(wrong)?,
                remote: port(remote).ok_or_else(wrong)?,
            }),
            None => port(text)
                .map(|port| Self {
                    local: port,
                    remote: port,
                })
                .ok_or_else(wrong),
        }
    }
}

/// Runs it until it is interrupted.
pub(crate) async fn run(args: PortForwardArgs, globals: &Globals) -> Result<ExitCode> {
    let api = Api::connect(globals).await?;
    let pod = pod_of(&api, &args.what).await?;
    let name = pod["metadata"]["name"]
        .as_str()
        .ok_or_else(|| anyhow!("the server sent a pod without a name"))?
        .to_owned();
    let service = match args.what.split_once('/') {
        Some(("service" | "services" | "svc", service)) => Some(
            api.get(&format!(
                "/api/v1/namespaces/{}/services/{service}",
                api.namespace
            ))
            .await?,
        ),
        _ => None,
    };
    let mut listeners = Vec::new();
    for ports in &args.ports {
        let remote = match &service {
            Some(service) => target_port(service, &pod, ports.remote)?,
            None => ports.remote,
        };
        let address = (Ipv4Addr::LOCALHOST, ports.local);
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!(
                "cannot listen on 127.0.0.1:{}; choose another port before the colon",
                ports.local
            )
        })?;
        put(&format!(
            "Forwarding from {} -> {remote}\n",
            listener.local_addr()?
        ))?;
        listeners.push((listener, remote));
    }
    let pods: kube::Api<Pod> = kube::Api::namespaced(api.client(), &api.namespace);
    let serving = listeners
        .into_iter()
        .map(|(listener, remote)| serve(listener, remote, pods.clone(), name.clone()));
    futures::future::try_join_all(serving).await?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(
    listener: TcpListener,
    remote: u16,
    pods: kube::Api<Pod>,
    name: String,
) -> Result<()> {
    loop {
        let (client, _) = listener
            .accept()
            .await
            .context("cannot take connections any more")?;
        let (pods, name) = (pods.clone(), name.clone());
        tokio::spawn(async move {
            if let Err(error) = forward(client, remote, pods, &name).await {
                eprintln!("error: port {remote} of {name}: {error:#}");
            }
        });
    }
}

async fn forward(
    mut client: TcpStream,
    remote: u16,
    pods: kube::Api<Pod>,
    name: &str,
) -> Result<()> {
    let mut forwarder = pods
        .portforward(name, &[remote])
        .await
        .context("the server refused")?;
    let fault = forwarder.take_error(remote);
    let mut stream = forwarder
        .take_stream(remote)
        .ok_or_else(|| anyhow!("no stream for it"))?;
    let copied = tokio::io::copy_bidirectional(&mut client, &mut stream).await;
    drop(stream);
    if let Some(fault) = fault
        && let Some(message) = fault.await
    {
        bail!("{message}");
    }
    // Either side may end a connection by a reset.
    let _ended = copied;
    Ok(())
}

/// The container port behind a port of a Service.
fn target_port(service: &Value, pod: &Value, port: u16) -> Result<u16> {
    let ports = service["spec"]["ports"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let entry = ports
        .iter()
        .find(|entry| entry["port"].as_u64() == Some(u64::from(port)))
        .ok_or_else(|| anyhow!("the Service has no port {port}"))?;
    let number = match &entry["targetPort"] {
        Value::String(name) => pod["spec"]["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|container| container["ports"].as_array().into_iter().flatten())
            .find(|port| port["name"] == name.as_str())
            .and_then(|port| port["containerPort"].as_u64()),
        Value::Number(number) => number.as_u64(),
        _ => Some(u64::from(port)),
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .ok_or_else(|| anyhow!("the pod has no container port for port {port} of the Service"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_are_read() {
        assert_eq!(
            "8080:80".parse(),
            Ok(Ports {
                local: 8080,
                remote: 80
            })
        );
        assert_eq!(
            "80".parse(),
            Ok(Ports {
                local: 80,
                remote: 80
            })
        );
        assert_eq!(
            ":80".parse(),
            Ok(Ports {
                local: 0,
                remote: 80
            })
        );
        for text in ["", "x", "80:", "0", "80:0", "70000"] {
            assert!(text.parse::<Ports>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_service_port_leads_to_a_container_port() {
        let pod =
            json!({"spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]}});
        let service = json!({"spec": {"ports": [{"port": 80, "targetPort": "http"}, {"port": 81, "targetPort": 9}, {"port": 82}]}});
        let target = |port| target_port(&service, &pod, port).ok();
        assert_eq!(
            [target(80), target(81), target(82), target(83)],
            [Some(8080), Some(9), Some(82), None]
        );
    }
}
