//! One session: what a node is told, in order, until it hangs up. The network goes before the pods, so that a pod's
//! identity is in the datapaths before its first process.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use waggle_model::Generation;
use waggle_wire::v1;
use waggle_wire::v1::from_server::Message;

use super::assignments::Told;
use super::feed::Catchup;
use super::links::Link;
use super::{Inner, node, upward};

/// Messages on their way to a node.
pub(super) const QUEUE: usize = 16;

/// The way down; closed when the node has hung up. A queue has room for 32 of what goes through it, always: boxes, because there are
/// thousands of queues.
pub(super) type Down = mpsc::Sender<Result<Box<v1::FromServer>, Status>>;

/// The node has hung up.
#[derive(Debug)]
struct HungUp;

/// Runs a session until it ends.
pub(super) async fn run(
    inner: Arc<Inner>,
    node: String,
    hello: v1::Hello,
    inbound: Streaming<v1::FromAgent>,
    down: Down,
) {
    let (range, uid) = match Box::pin(node::register(&inner, &hello)).await {
        Ok((range, uid)) => (range.to_string(), uid),
        Err(status) => {
            tracing::warn!(node, error = %status, "a node can't be registered");
            let refusal =
                Status::failed_precondition(format!("node {node:?} can't be registered: {status}"));
            return drop(down.send(Err(refusal)).await);
        }
    };
    let mine = hello.epoch == inner.epoch;
    let (link, requests) = inner.links.open(&node);
    inner.cadence.count(inner.links.count());
    tracing::info!(
        node,
        version = hello.agent_version,
        resumes = mine,
        "node session"
    );
    tokio::select! {
        () = link.ended.cancelled() => {
            drop(down.try_send(Err(Status::aborted("the server ended this session"))));
        }
        // Only a hello registers a node: the agent has to come back and say it.
        () = node::gone(&inner, &node, &uid) => {
            tracing::info!(node, "the Node object of a connected node is gone");
            drop(down.try_send(Err(Status::aborted("the Node object was deleted"))));
        }
        () = upward::listen(&inner, &link, inbound) => {}
        _ = tell(&inner, &link, &hello, range, requests, &down) => {}
    }
    let last = inner.links.close(&link);
    inner.cadence.count(inner.links.count());
    if last {
        inner.beats.doubt(&node);
    }
    inner.hub.nudge();
    tracing::info!(node, "node session ended");
}

async fn tell(
    inner: &Inner,
    link: &Arc<Link>,
    hello: &v1::Hello,
    pod_cidr: String,
    mut requests: mpsc::Receiver<Box<v1::OpenStream>>,
    down: &Down,
) -> Result<(), HungUp> {
    let mut cadence = inner.cadence.follow();
    let heartbeat = *cadence.borrow_and_update();
    send(down, Message::Welcome(welcome(inner, &pod_cidr, heartbeat))).await?;
    let told = inner.links.told(&link.node, inner.hub.base());
    let mut told = told.lock().await;
    let mine = hello.epoch == inner.epoch;
    let mut whole = !(mine && hello.pods_generation == told.generation);
    if whole {
        told.forget();
    }
    let mut at = Generation(if mine { hello.network_generation } else { 0 });
    loop {
        // Before the network is looked at: what of its pods is news needs no newer one.
        let pods = link.take_pods();
        match inner.hub.network_since(at) {
            Some((news, newest)) => {
                tell_network(news, down).await?;
                at = newest;
                if pods {
                    tell_pods(inner, link, &mut told, &mut whole, down).await?;
                }
            }
            None => link.put_pods(pods),
        }
        loop {
            tokio::select! {
                () = link.woken() => break,
                Ok(()) = cadence.changed() => {
                    let heartbeat = *cadence.borrow_and_update();
                    send(down, Message::Welcome(welcome(inner, &pod_cidr, heartbeat))).await?;
                }
                request = requests.recv() => {
                    let request = request.ok_or(HungUp)?;
                    send(down, Message::OpenStream(*request)).await?;
                }
            }
        }
    }
}

fn welcome(inner: &Inner, pod_cidr: &str, heartbeat: Duration) -> v1::Welcome {
    let settings = &inner.settings;
    v1::Welcome {
        epoch: inner.epoch.clone(),
        cluster: Some(v1::ClusterConfig {
            cluster_domain: settings.domain.clone(),
            dns_vip: settings.dns_vip.to_string(),
            service_cidr: settings.service_range.to_string(),
            pod_cidr: settings.pod_range.to_string(),
            api_vip: settings.api_vip.to_string(),
        }),
        pod_cidr: pod_cidr.to_owned(),
        heartbeat_seconds: u32::try_from(heartbeat.as_secs().max(1)).unwrap_or(u32::MAX),
    }
}

async fn tell_network(news: Catchup, down: &Down) -> Result<(), HungUp> {
    match news {
        Catchup::Nothing => {}
        Catchup::Steps(steps) => {
            for step in steps {
                send_large(down, step, Message::NetworkDelta).await?;
            }
        }
        Catchup::Snapshot(snapshot) => {
            send_large(down, snapshot, Message::NetworkSnapshot).await?;
        }
    }
    Ok(())
}

async fn send_large(down: &Down, encoded: Bytes, kind: fn(Bytes) -> Message) -> Result<(), HungUp> {
    for piece in waggle_wire::pieces(encoded, kind) {
        send(down, piece).await?;
    }
    Ok(())
}

/// Pods that are news; all of them when `whole`.
async fn tell_pods(
    inner: &Inner,
    link: &Link,
    told: &mut Told,
    whole: &mut bool,
    down: &Down,
) -> Result<(), HungUp> {
    let node = link.node.as_str();
    let registry = inner.numbers.registry();
    let news = inner.view.read(|snapshot| {
        told.news(node, snapshot, &inner.objects, &registry, |uid| {
            inner.hub.may_end(uid)
        })
    });
    link.waits(news.as_ref().map_or(true, |news| news.waits));
    let news = match news {
        Ok(news) if *whole || !news.is_empty() => news,
        Ok(_) => return Ok(()),
        Err(status) => {
            tracing::error!(node, error = %status, "pods can't be told to their node");
            return Ok(());
        }
    };
    told.generation += 1;
    let generation = told.generation;
    if std::mem::take(whole) {
        send(
            down,
            Message::PodsSnapshot(v1::PodsSnapshot {
                generation,
                pods: news.upserts,
            }),
        )
        .await
    } else {
        let delta = v1::PodsDelta {
            generation,
            upserts: news.upserts,
            removals: news.removals,
        };
        send(down, Message::PodsDelta(delta)).await
    }
}

async fn send(down: &Down, message: Message) -> Result<(), HungUp> {
    down.send(Ok(Box::new(v1::FromServer {
        message: Some(message),
    })))
    .await
    .map_err(|_| HungUp)
}
