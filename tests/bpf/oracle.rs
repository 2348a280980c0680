//! Waggle beside kube-proxy: the same services on two nodes that are the same but for who translates, and the same calls to
//! both. What is called, by whom, over both families and both protocols, ends alike: answered by one of the same backends,
//! which takes its caller for the same address, or refused, or not answered. Where it does not, [`DIFFERENCES`] says so and
//! why, and that is asserted as well.

mod rooms;
mod rules;
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use waggle_model::network::Scope;

use crate::Case;
use crate::state::ip;
use rooms::{Client, Clients, Heard, Side, call};
use services::{FAR, HOSTS, Sources, Spec, Target, drawn};

pub(crate) const CASES: &[Case] = &[(
    "services_end_as_kube_proxys_do_but_for_what_is_listed",
    services_end_as_kube_proxys_do_but_for_what_is_listed,
)];

/// Calls of one kind; more than there are endpoints.
const CALLS: usize = 4;
/// Threads for each client of each side: most of their time they wait for silence.
const WORKERS: usize = 40;
const SEED: u64 = 1;

/// Calls of one kind.
#[derive(Debug, Clone, Copy)]
struct Probe<'a> {
    spec: &'a Spec,
    client: Client,
    target: Target,
    protocol: &'static str,
    family: usize,
}

/// How they ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// By each of these, which took the caller for this address.
    Answered(BTreeMap<String, IpAddr>),
    Refused,
    Silent,
}

/// How they should end.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Expected {
    outcome: Outcome,
    /// Who may answer.
    by: BTreeSet<&'static str>,
}

/// A known difference.
struct Difference {
    /// What Waggle does, and why.
    words: &'static str,
    /// Makes what kube-proxy does into what Waggle does.
    turn: fn(&Probe, &mut Expected),
}

/// In this order; each starts from what the one before left.
const DIFFERENCES: &[Difference] = &[
    Difference {
        words: "a virtual address is refused from outside: it is for the cluster, kube-proxy serves whoever has a route",
        turn: |probe, expected| {
            if probe.client == Client::Outside && probe.target == Target::ClusterIp {
                expected.outcome = Outcome::Refused;
            }
        },
    },
    Difference {
        words: "callers inside are not asked for their range: loadBalancerSourceRanges is about clients of the load balancer, \
                kube-proxy asks whoever calls its address on a node",
        turn: |probe, expected| {
            let guarded = probe.target == Target::LoadBalancer && !probe.is_in_range();
            if guarded && probe.client != Client::Outside {
                expected.serve(probe.spec.answering(Scope::Cluster));
            }
        },
    },
    Difference {
        words: "ranges guard every external address, spec.externalIPs too: a node can't know through which of them a load \
                balancer comes",
        turn: |probe, expected| {
            let outside = probe.client == Client::Outside;
            if outside && probe.target == Target::ExternalIp && !probe.is_in_range() {
                expected.outcome = Outcome::Silent;
            }
        },
    },
    Difference {
        words: "callers inside are served alike at every address of a service, by internalTrafficPolicy: for kube-proxy a pod \
                that calls a node port is outside, or, under the policy Local, nobody's",
        turn: |probe, expected| {
            let inside = probe.client != Client::Outside;
            if inside && probe.target.is_external() && probe.spec.internal == Scope::Local {
                expected.serve(probe.spec.answering(Scope::Local));
            }
        },
    },
    Difference {
        words: "who finds no endpoint on the node that he may reach is refused at once: kube-proxy lets him wait",
        turn: |probe, expected| {
            let let_in =
                probe.client != Client::Outside || probe.is_in_range() || !probe.is_guarded();
            if expected.outcome == Outcome::Silent && let_in {
                expected.outcome = Outcome::Refused;
            }
        },
    },
    Difference {
        words: "a pod is seen by its own address, through itself, a node port or an external address: it is translated at its \
                socket, kube-proxy has to hide it behind the node",
        turn: |probe, expected| {
            if probe.client.is_pod() {
                expected.seen_as(probe.client.address(probe.family), |_| true);
            }
        },
    },
    Difference {
        words: "who is outside is seen by his own address where the backend is on the node that he called: its answer passes \
                here anyway, kube-proxy hides him under the policy Cluster",
        turn: |probe, expected| {
            if probe.client == Client::Outside {
                expected.seen_as(probe.client.address(probe.family), |name| name != FAR.0);
            }
        },
    },
];

impl Expected {
    /// Answered by these, or refused when there are none. Who answers where nobody did sees the node, unless told otherwise.
    fn serve(&mut self, by: BTreeSet<&'static str>) {
        if by.is_empty() {
            self.outcome = Outcome::Refused;
        } else if !matches!(self.outcome, Outcome::Answered(_)) {
            self.outcome = Outcome::Answered(BTreeMap::new());
        }
        self.by = by;
    }

    fn seen_as(&mut self, address: IpAddr, by: fn(&str) -> bool) {
        if let Outcome::Answered(callers) = &mut self.outcome {
            let seen = callers.iter_mut().filter(|(name, _)| by(name));
            seen.for_each(|(_, caller)| *caller = address);
        }
    }
}

impl<'a> Probe<'a> {
    /// Every one of these services, by one client: what one thread asks for, each target by both families. Affinity is a
    /// service's, whatever address it is called at: calls at two of them at once would disturb each other.
    fn all(specs: &'a [Spec], client: Client) -> Vec<Vec<[Self; 2]>> {
        let mut all = Vec::new();
        for spec in specs {
            for protocol in ["tcp", "udp"] {
                let probes = |target| {
                    [0, 1].map(|family| Self {
                        spec,
                        client,
                        target,
                        protocol,
                        family,
                    })
                };
                let probes = Target::ALL.map(probes);
                if spec.affinity {
                    all.push(probes.to_vec());
                } else {
                    all.extend(probes.map(|pair| vec![pair]));
                }
            }
        }
        all
    }

    /// Whether ranges are asked for at what it calls.
    fn is_guarded(&self) -> bool {
        matches!(self.target, Target::LoadBalancer | Target::ExternalIp)
    }

    /// Whether the service's ranges have the caller.
    fn is_in_range(&self) -> bool {
        match self.spec.sources {
            Sources::Everyone => true,
            Sources::World => self.client == Client::Outside,
            Sources::Others => false,
        }
    }

    /// Who answers by what kube-proxy's documents say.
    fn answering(&self) -> BTreeSet<&'static str> {
        let scope = match (self.target, self.client) {
            (Target::UnservedPort, _) => return BTreeSet::new(),
            (Target::ClusterIp, _) => self.spec.internal,
            (_, Client::Outside) => self.spec.external,
            // Calls from inside are not what the external policy is about.
            _ => Scope::Cluster,
        };
        self.spec.answering(scope)
    }

    fn call(&self) -> Heard {
        let address = self.spec.address(self.target, self.family);
        let to = SocketAddr::new(address, self.spec.port(self.target));
        call(self.protocol, to)
    }
}

/// Makes the calls of both families in turn: neither may disturb what the other keeps.
fn run([one, other]: &[Probe; 2]) -> [Outcome; 2] {
    let mut ended = [Outcome::none(), Outcome::none()];
    for turn in 0..CALLS {
        for (probe, ended) in [one, other].into_iter().zip(&mut ended) {
            ended.hear(probe, turn);
        }
    }
    for (probe, ended) in [one, other].into_iter().zip(&ended) {
        if let Outcome::Answered(by) = ended
            && probe.spec.affinity
        {
            assert_eq!(by.len(), 1, "{probe:?} is sent to {by:?}");
        }
    }
    ended
}

impl Outcome {
    fn none() -> Self {
        Self::Answered(BTreeMap::new())
    }

    /// Calls once more, unless the first call was in vain.
    fn hear(&mut self, probe: &Probe, turn: usize) {
        let Self::Answered(by) = self else {
            return;
        };
        match probe.call() {
            Heard::Answer(name, caller) => {
                let before = by.insert(name, caller);
                assert!(before.is_none_or(|before| before == caller), "{probe:?}");
            }
            other => {
                assert_eq!(turn, 0, "{probe:?}: first {by:?}, then {other:?}");
                *self = match other {
                    Heard::Refused => Self::Refused,
                    _ => Self::Silent,
                };
            }
        }
    }
}

/// Outcomes of what one client called, by what one thread asked for.
type Outcomes = BTreeMap<(Client, usize), Vec<Outcome>>;

fn ask_everything(clients: &Clients, specs: &[Spec]) -> Outcomes {
    let outcomes = Mutex::new(Outcomes::new());
    let nexts = Client::ALL.map(|_| AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for (client, next) in Client::ALL.into_iter().zip(&nexts) {
            for _ in 0..WORKERS {
                let outcomes = &outcomes;
                scope.spawn(move || {
                    clients.enter(client);
                    let probes = Probe::all(specs, client);
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(probes) = probes.get(index) else {
                            return;
                        };
                        let ended = probes.iter().flat_map(run).collect();
                        let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                        outcomes.insert((client, index), ended);
                    }
                });
            }
        }
    });
    outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
}

/// Says what is wrong with what Waggle did; notes which differences made a difference.
fn compare(
    probe: &Probe,
    kube_proxy: &Outcome,
    waggle: &Outcome,
    used: &mut [usize],
) -> Option<String> {
    let mut expected = Expected {
        outcome: kube_proxy.clone(),
        by: probe.answering(),
    };
    if let Outcome::Answered(callers) = kube_proxy
        && !callers
            .keys()
            .all(|name| expected.by.contains(name.as_str()))
    {
        return Some(format!(
            "the rules are not kube-proxy's: {kube_proxy:?}, by {:?}",
            expected.by
        ));
    }
    for (difference, used) in DIFFERENCES.iter().zip(used) {
        let before = expected.clone();
        (difference.turn)(probe, &mut expected);
        *used += usize::from(before != expected);
    }
    let alike = match (&expected.outcome, waggle) {
        (Outcome::Answered(callers), Outcome::Answered(seen)) => {
            seen.iter().all(|(name, caller)| {
                let known = callers.get(name).copied();
                let wanted = known.unwrap_or_else(|| seen_by(probe, name));
                expected.by.contains(name.as_str()) && *caller == wanted
            })
        }
        (expected, waggle) => expected == waggle,
    };
    (!alike)
        .then(|| format!("kube-proxy: {kube_proxy:?}; Waggle: {waggle:?}, should be {expected:?}"))
}

/// Whom a backend takes the caller for that kube-proxy did not send him to.
fn seen_by(probe: &Probe, name: &str) -> IpAddr {
    if probe.client == Client::Outside && name == FAR.0 {
        ip(HOSTS[probe.family])
    } else {
        probe.client.address(probe.family)
    }
}

fn services_end_as_kube_proxys_do_but_for_what_is_listed() {
    let mut specs = drawn(SEED);
    // What takes longest, first.
    specs.sort_by_key(|spec| !spec.affinity);
    let (waggle, kube_proxy) = (Side::waggle(&specs), Side::kube_proxy(&specs));
    let [waggle, kube_proxy] = std::thread::scope(|scope| {
        let specs = &specs;
        let sides = [&waggle.clients, &kube_proxy.clients];
        let asked = sides.map(|clients| scope.spawn(move || ask_everything(clients, specs)));
        asked.map(|one| one.join().expect("everything was asked"))
    });
    let (mut used, mut faults) = (vec![0; DIFFERENCES.len()], Vec::new());
    let (mut probes, mut answered) = (0, 0);
    for client in Client::ALL {
        for (index, asked) in Probe::all(&specs, client).iter().enumerate() {
            let ended = kube_proxy[&(client, index)].iter();
            let ended = ended.zip(&waggle[&(client, index)]);
            for (probe, (theirs, ours)) in asked.as_flattened().iter().zip(ended) {
                probes += 1;
                answered += usize::from(matches!(ours, Outcome::Answered(_)));
                if let Some(fault) = compare(probe, theirs, ours, &mut used) {
                    faults.push(format!("{probe:?}\n  {fault}"));
                }
            }
        }
    }
    assert!(
        faults.is_empty(),
        "{} of {probes}:\n{}",
        faults.len(),
        faults[..faults.len().min(12)].join("\n")
    );
    assert!(
        answered > probes / 4,
        "only {answered} of {probes} were answered"
    );
    println!("{probes} kinds of call, {answered} answered, known differences {used:?} times");
    for (difference, used) in DIFFERENCES.iter().zip(used) {
        assert!(used > 0, "no difference any more: {}", difference.words);
    }
}
