//! From the network state to the kernel and the DNS zone: applies each state, newest first, and acknowledges what is in
//! the kernel. Which rows that are is `waggle-policy`'s and `waggle-datapath`'s business.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use waggle_datapath::DnsRedirect;
use waggle_dns::{Zone, ZoneOptions};
use waggle_model::network::NetworkState;

use crate::node::{Cluster, Node};

/// After a state that could not be applied.
const RETRY: Duration = Duration::from_secs(2);

/// Follows the network state for as long as it runs. `listener` is where the node's DNS answers.
pub(crate) async fn follow(
    node: Arc<Node>,
    listener: SocketAddr,
    zone: watch::Sender<Option<Arc<Zone>>>,
) {
    let mut states = node.network.subscribe();
    let mut clusters = node.cluster.subscribe();
    loop {
        let state = states.borrow_and_update().clone();
        let cluster = clusters.borrow_and_update().clone();
        let mut again = None;
        // Generation 0 is "nothing known": the kernel keeps what an earlier agent wrote.
        if state.generation.0 > 0 {
            again = apply(&node, &state, &cluster, listener)
                .await
                .err()
                .map(|()| RETRY);
            match Zone::build(&state, &zone_options(&cluster)) {
                Ok(built) => drop(zone.send_replace(Some(Arc::new(built)))),
                Err(error) => tracing::error!(%error, domain = cluster.domain(), "no DNS zone"),
            }
        }
        let pause = async {
            match again {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return },
            changed = clusters.changed() => if changed.is_err() { return },
            () = pause => {}
        }
    }
}

async fn apply(
    node: &Node,
    state: &NetworkState,
    cluster: &Cluster,
    listener: SocketAddr,
) -> Result<(), ()> {
    node.datapath
        .set_dns(cluster.dns_vip.map(|vip| DnsRedirect { vip, listener }));
    let started = std::time::Instant::now();
    match node.datapath.apply(state).await {
        Ok(applied) => {
            tracing::debug!(
                generation = %state.generation,
                rows = applied.rows,
                routes = applied.routes,
                micros = started.elapsed().as_micros(),
                "network state applied"
            );
            node.applied.send_replace(state.generation);
            node.outbox.ack(|ack| {
                ack.network_generation = state.generation.0;
                ack.network_fault.clear();
            });
            Ok(())
        }
        Err(error) => {
            tracing::error!(generation = %state.generation, %error, "network state not applied");
            node.outbox.ack(|ack| ack.network_fault = error.to_string());
            Err(())
        }
    }
}

fn zone_options(cluster: &Cluster) -> ZoneOptions {
    let ranges = [&cluster.service_cidr, &cluster.pod_cidr];
    ZoneOptions {
        domain: cluster.domain().to_owned(),
        ranges: ranges
            .iter()
            .filter_map(|range| range.parse().ok())
            .collect(),
        dns_vip: cluster.dns_vip,
    }
}
