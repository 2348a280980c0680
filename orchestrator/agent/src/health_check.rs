//! Health check ports of Services of type LoadBalancer with externalTrafficPolicy Local: a load balancer asks each node
//! there whether it has ready backends of its own. Answers are worded as kube-proxy words them (KEP-27), and are about
//! what is in the kernel, not about what is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use waggle_model::network::{NetworkState, PerFamily, Service, Standing};

use crate::node::Node;

/// Until a port that was taken is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Most time for one question.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions answered at once on one port.
const MOST: usize = 64;

/// What is said at one port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    namespace: String,
    name: String,
    /// Ready backends on this node.
    local: usize,
}

/// Ports that are open, with what is said there.
type Open = BTreeMap<u16, (watch::Sender<Check>, JoinSet<()>)>;

/// Answers at the health check ports of every Service for as long as it runs.
pub(crate) async fn serve(node: Arc<Node>) {
    let mut applied = node.applied.subscribe();
    let mut open = Open::new();
    loop {
        applied.borrow_and_update();
        let wanted = node.network.read(|state| checks(state, &node.name));
        let refused = level(&mut open, wanted, node.addresses).await;
        let again = async {
            if refused {
                tokio::time::sleep(RETRY).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { return },
            () = again => {}
        }
    }
}

/// What is to be said at which port of `node`.
fn checks(state: &NetworkState, node: &str) -> BTreeMap<u16, Check> {
    let asked = state.services.values();
    let asked = asked.filter_map(|one| Some((one.health_check_port?, one)));
    asked
        .map(|(port, service)| {
            let check = Check {
                namespace: service.namespace.clone(),
                name: service.name.clone(),
                local: local(service, node),
            };
            (port, check)
        })
        .collect()
}

/// Pods of `node` that are ready to serve.
fn local(service: &Service, node: &str) -> usize {
    let backends = service.ports.iter().flat_map(|port| &port.backends);
    let mine = backends.filter(|one| one.node == node && one.standing == Standing::Ready);
    let addresses: BTreeSet<(bool, IpAddr)> = mine
        .map(|one| (one.address.is_ipv4(), one.address))
        .collect();
    // A pod of two families is one.
    let of = |ipv4| {
        addresses
            .iter()
            .filter(|(family, _)| *family == ipv4)
            .count()
    };
    of(true).max(of(false))
}

/// Opens and closes ports until they are those that are wanted. True when one can't be opened now.
async fn level(
    open: &mut Open,
    wanted: BTreeMap<u16, Check>,
    addresses: PerFamily<IpAddr>,
) -> bool {
    open.retain(|port, _| wanted.contains_key(port));
    let mut refused = false;
    for (port, check) in wanted {
        if let Some((said, _)) = open.get(&port) {
            said.send_if_modified(|before| {
                let changed = *before != check;
                *before = check;
                changed
            });
            continue;
        }
        let mut listeners = Vec::new();
        for address in addresses.iter() {
            match TcpListener::bind(SocketAddr::new(address, port)).await {
                Ok(listener) => listeners.push(listener),
                Err(error) => {
                    let service = format!("{}/{}", check.namespace, check.name);
                    tracing::warn!(%error, %address, port, service, "no health check port");
                    refused = true;
                }
            }
        }
        if listeners.len() < addresses.iter().count() {
            continue;
        }
        let said = watch::Sender::new(check);
        let mut tasks = JoinSet::new();
        for listener in listeners {
            tasks.spawn(listen(listener, said.subscribe()));
        }
        open.insert(port, (said, tasks));
    }
    refused
}

async fn listen(listener: TcpListener, said: watch::Receiver<Check>) {
    let mut talks = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(RETRY).await;
            continue;
        };
        while talks.try_join_next().is_some() {}
        if talks.len() >= MOST {
            talks.join_next().await;
        }
        talks.spawn(tokio::time::timeout(PATIENCE, talk(stream, said.clone())));
    }
}

async fn talk(stream: TcpStream, said: watch::Receiver<Check>) {
    let service = hyper::service::service_fn(move |_request| {
        let answer = answer(&said.borrow());
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    let talk = http
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = talk.await {
        tracing::debug!(%error, "a health check broke off");
    }
}

fn answer(check: &Check) -> Response<Full<Bytes>> {
    let body = serde_json::json!({
        "service": {"namespace": check.namespace, "name": check.name},
        "localEndpoints": check.local,
        "serviceProxyHealthy": true,
    });
    let mut answer = Response::new(Full::new(Bytes::from(body.to_string())));
    if check.local == 0 {
        *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = answer.headers_mut();
    let json = header::HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    let weight = header::HeaderValue::from(check.local);
    headers.insert("x-load-balancing-endpoint-weight", weight);
    answer
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use waggle_model::ServiceId;
    use waggle_model::network::{Backend, ServicePort};

    use super::*;

    fn backend(address: [u8; 4], node: &str, standing: Standing) -> Backend {
        Backend {
            node: node.to_owned(),
            standing,
            ..Backend::at(address.into(), 80)
        }
    }

    fn state(port: u16, backends: Vec<Backend>) -> NetworkState {
        let port_row = |number| ServicePort {
            port: number,
            backends: backends.clone(),
            ..ServicePort::default()
        };
        let service = Service {
            id: ServiceId(1),
            namespace: "shop".into(),
            name: "web".into(),
            health_check_port: Some(port),
            ports: vec![port_row(80), port_row(81)],
            ..Service::default()
        };
        NetworkState {
            services: [(service.id, service)].into(),
            ..NetworkState::default()
        }
    }

    async fn ask(port: u16) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n")
            .await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    #[test]
    fn pods_that_are_ready_here_count_once() {
        let state = state(
            30_100,
            vec![
                backend([10, 244, 0, 2], "node1", Standing::Ready),
                backend([10, 244, 0, 3], "node1", Standing::Unready),
                backend([10, 244, 0, 4], "node1", Standing::Terminating),
                backend([10, 244, 1, 2], "node2", Standing::Ready),
            ],
        );
        assert_eq!(checks(&state, "node1")[&30_100].local, 1);
        assert_eq!(checks(&state, "node3")[&30_100].local, 0);
    }

    #[tokio::test]
    async fn a_port_opens_says_what_is_here_and_closes() {
        let port = {
            let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
            free.local_addr().unwrap().port()
        };
        let mut open = Open::new();
        let addresses = PerFamily::single([127, 0, 0, 1].into());
        let here = vec![backend([10, 244, 0, 2], "node1", Standing::Ready)];
        for (backends, status) in [
            (here.clone(), "HTTP/1.1 200"),
            (Vec::new(), "HTTP/1.1 503"),
            (here, "HTTP/1.1 200"),
        ] {
            let local = backends.len();
            let wanted = checks(&state(port, backends), "node1");
            assert!(!level(&mut open, wanted, addresses).await);
            let text = ask(port).await.unwrap();
            assert!(text.starts_with(status), "{text}");
            let body = format!("\"localEndpoints\":{local},");
            assert!(
                text.contains(&body) && text.contains("\"namespace\":\"shop\""),
                "{text}"
            );
        }
        level(&mut open, BTreeMap::new(), addresses).await;
        // The task that held the listener ends by and by.
        let closed = async {
            while ask(port).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(RETRY, closed).await.unwrap();
        let held = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let wanted = checks(&state(port, Vec::new()), "node1");
        assert!(
            level(&mut open, wanted, addresses).await,
            "the port is taken"
        );
        drop(held);
    }
}
