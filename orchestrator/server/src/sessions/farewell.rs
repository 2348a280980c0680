//! The order in which a pod ends: first every datapath forgets it as a backend, then its node is told to stop it. So
//! a connection never goes to a pod that has had its SIGTERM. Bounded: a node that does not answer delays nobody for
//! longer than [`LONGEST_WAIT`] or the pod's own grace period.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use waggle_model::Generation;
use waggle_model::network::{NetworkState, ServicePort};
use waggle_plan::pod::{self, Pod};

/// How long a deletion is held back at most.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A pod that is to end, as this room looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    /// Uid.
    pub(crate) uid: String,
    /// Where it is.
    pub(crate) node: String,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// How long its deletion may be held back.
    pub(crate) wait: Duration,
}

impl Ending {
    /// A pod with a deletionTimestamp. One whose wait was over before this server looked waits no more.
    pub(crate) fn of(pod: &Pod, now: Timestamp) -> Option<Self> {
        let due = pod.metadata.deletion_timestamp.as_ref()?.0.as_second();
        let grace = pod
            .metadata
            .deletion_grace_period_seconds
            .unwrap_or(0)
            .max(0);
        let wait = LONGEST_WAIT.min(Duration::from_secs(grace.unsigned_abs()));
        // deletionTimestamp is when the grace ends, in whole seconds.
        let elapsed = Duration::from_secs((now.as_second() - (due - grace)).max(0).unsigned_abs());
        let wait = if elapsed > wait + Duration::from_secs(1) {
            Duration::ZERO
        } else {
            wait
        };
        let status = pod.status.as_ref();
        let listed = status
            .and_then(|status| status.pod_ips.as_ref())
            .into_iter()
            .flatten();
        let first = status.and_then(|status| status.pod_ip.as_ref());
        let texts = listed.map(|one| &one.ip).chain(first);
        Some(Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            node: pod::node_name(pod).unwrap_or_default().to_owned(),
            addresses: texts.filter_map(|text| text.parse().ok()).collect(),
            wait,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Still a backend in the newest network state.
    Serving,
    /// No backend since this generation.
    Left(Generation),
    /// Its node may be told.
    Released,
}

#[derive(Debug)]
struct Held {
    deadline: Instant,
    progress: Progress,
}

/// Pods that are to end and how far each has come.
#[derive(Debug, Default)]
pub(crate) struct Farewells {
    pods: HashMap<String, Held>,
}

impl Farewells {
    /// Whether one of these is not released yet.
    pub(crate) fn holds(&self, ending: &[Ending]) -> bool {
        ending.iter().any(|pod| !self.is_released(&pod.uid))
    }

    /// Looks again: `ending` are all pods that are to end, `state` the newest network state, `acknowledged` the
    /// lowest generation that every node in reach has applied (`None` without any such node). Answers the nodes of the
    /// pods that were released.
    pub(crate) fn advance(
        &mut self,
        ending: &[Ending],
        state: &NetworkState,
        acknowledged: Option<Generation>,
        now: Instant,
    ) -> BTreeSet<String> {
        let known: HashSet<&str> = ending.iter().map(|pod| pod.uid.as_str()).collect();
        self.pods.retain(|uid, _| known.contains(uid.as_str()));
        let mut released = BTreeSet::new();
        if !self.holds(ending) {
            return released;
        }
        let backends = backends(state);
        for pod in ending {
            let deadline = now + pod.wait;
            let held = self.pods.entry(pod.uid.clone()).or_insert(Held {
                deadline,
                progress: Progress::Serving,
            });
            if held.progress == Progress::Released {
                continue;
            }
            held.progress = step(held.progress, pod, &backends, state.generation);
            let gone = match held.progress {
                Progress::Left(generation) => {
                    acknowledged.is_none_or(|lowest| lowest >= generation)
                }
                _ => false,
            };
            if gone || now >= held.deadline {
                held.progress = Progress::Released;
                released.insert(pod.node.clone());
            }
        }
        released
    }

    /// Whether the pod's node may be told that it is to end.
    pub(crate) fn is_released(&self, uid: &str) -> bool {
        self.pods
            .get(uid)
            .is_some_and(|held| held.progress == Progress::Released)
    }

    /// When the next pod is released whatever the nodes say.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let held = self
            .pods
            .values()
            .filter(|held| held.progress != Progress::Released);
        held.map(|held| held.deadline).min()
    }
}

fn step(
    before: Progress,
    pod: &Ending,
    backends: &HashSet<IpAddr>,
    newest: Generation,
) -> Progress {
    if pod
        .addresses
        .iter()
        .any(|address| backends.contains(address))
    {
        return Progress::Serving;
    }
    match before {
        Progress::Serving => Progress::Left(newest),
        other => other,
    }
}

fn backends(state: &NetworkState) -> HashSet<IpAddr> {
    let ports = state.services.values().flat_map(|service| &service.ports);
    ports
        .flat_map(ServicePort::usable)
        .map(|backend| backend.address)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use waggle_model::network::{Backend, Protocol, Service};
    use waggle_model::{ServiceId, TenantId};

    fn state(generation: u64, backends: &[u8]) -> NetworkState {
        let backend = |last: &u8| Backend {
            node: "node1".into(),
            ..Backend::at([10, 244, 0, *last].into(), 80)
        };
        let port = ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            backends: backends.iter().map(backend).collect(),
            ..ServicePort::default()
        };
        let service = Service {
            id: ServiceId(1),
            namespace: "shop".into(),
            name: "web".into(),
            tenant: TenantId(2),
            ports: vec![port],
            ..Service::default()
        };
        let services = [(service.id, service)].into();
        NetworkState {
            generation: Generation(generation),
            services,
            ..NetworkState::default()
        }
    }

    const REQUESTED: i64 = 1_000_000;

    fn pod_at(last: u8, grace: i64, now: i64) -> Ending {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {
                "uid": format!("uid-{last}"), "deletionGracePeriodSeconds": grace,
                "deletionTimestamp": Timestamp::from_second(REQUESTED + grace).unwrap().to_string(),
            },
            "status": {"podIP": format!("10.244.0.{last}")},
        }))
        .unwrap();
        Ending::of(&pod, Timestamp::from_second(now).unwrap()).unwrap()
    }

    fn pod(last: u8, grace: i64) -> Ending {
        pod_at(last, grace, REQUESTED)
    }

    #[test]
    fn a_wait_that_was_over_before_the_server_started_is_not_repeated() {
        assert_eq!(pod_at(1, 30, REQUESTED + 6).wait, Duration::from_secs(5));
        assert_eq!(pod_at(1, 30, REQUESTED + 7).wait, Duration::ZERO);
        assert_eq!(pod_at(1, 2, REQUESTED + 4).wait, Duration::ZERO);
        assert_eq!(
            pod_at(1, 30, REQUESTED - 10).wait,
            Duration::from_secs(5),
            "clocks differ"
        );
    }

    #[test]
    fn a_pod_waits_until_every_node_has_forgotten_it() {
        let (mut farewells, now) = (Farewells::default(), Instant::now());
        let ending = [pod(1, 30)];
        assert!(
            farewells
                .advance(&ending, &state(7, &[1, 2]), Some(Generation(7)), now)
                .is_empty()
        );
        assert!(!farewells.is_released("uid-1"));
        assert!(
            farewells
                .advance(&ending, &state(8, &[2]), Some(Generation(7)), now)
                .is_empty()
        );
        assert!(!farewells.is_released("uid-1"), "one node is still at 7");
        assert!(
            farewells
                .advance(&ending, &state(9, &[2, 3]), Some(Generation(7)), now)
                .is_empty()
        );
        assert!(
            !farewells
                .advance(&ending, &state(9, &[2, 3]), Some(Generation(8)), now)
                .is_empty()
        );
        assert!(
            farewells.is_released("uid-1"),
            "8 is where it left; 9 need not be waited for"
        );
    }

    #[test]
    fn the_wait_is_bounded_by_grace_and_by_five_seconds() {
        let now = Instant::now();
        for (grace, wait) in [(2, 2), (30, 5), (0, 0)] {
            let mut farewells = Farewells::default();
            let ending = [pod(1, grace)];
            let released = farewells.advance(&ending, &state(7, &[1]), Some(Generation(7)), now);
            assert_eq!(!released.is_empty(), wait == 0);
            let due = now + Duration::from_secs(wait);
            assert_eq!(farewells.next_deadline(), (wait > 0).then_some(due));
            farewells.advance(&ending, &state(7, &[1]), Some(Generation(7)), due);
            assert!(farewells.is_released("uid-1"), "grace {grace}");
        }
    }

    #[test]
    fn nobody_in_reach_delays_nobody_and_the_gone_are_forgotten() {
        let (mut farewells, now) = (Farewells::default(), Instant::now());
        assert!(
            !farewells
                .advance(&[pod(1, 30)], &state(7, &[2]), None, now)
                .is_empty()
        );
        assert!(farewells.is_released("uid-1"));
        assert!(
            farewells
                .advance(&[], &state(7, &[2]), None, now)
                .is_empty()
        );
        assert!(!farewells.is_released("uid-1"));
    }

    #[test]
    fn a_pod_that_comes_back_as_backend_waits_again() {
        let (mut farewells, now) = (Farewells::default(), Instant::now());
        let ending = [pod(1, 30)];
        farewells.advance(&ending, &state(8, &[]), Some(Generation(7)), now);
        farewells.advance(&ending, &state(9, &[1]), Some(Generation(8)), now);
        assert!(!farewells.is_released("uid-1"));
    }
}
