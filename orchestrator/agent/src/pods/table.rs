//! The pods of this node and their tasks: who is wanted, what the supervisor has of each, and who is gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use tokio::sync::{mpsc, watch};
use waggle_model::{IdentityId, PodKey, TenantId};
use waggle_runtime::spec::{ContainerState, Sandbox};

use super::desired::{Desired, Ephemeral};
use super::worker::{Mail, Worker};
use crate::containers::Report;
use crate::node::Node;

/// Every pod of the node. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Table {
    node: Arc<Node>,
    inner: Arc<Mutex<Inner>>,
    /// Counts changes of containers, for those who wait for one.
    changes: Arc<watch::Sender<u64>>,
}

#[derive(Default)]
struct Inner {
    pods: HashMap<String, Entry>,
    /// What the supervisor has, by pod UID; `None` before it was first asked.
    mirror: Option<HashMap<String, Has>>,
    /// Wanted before the mirror was there.
    early: Vec<Desired>,
    /// A server has said which pods are wanted: what is not is a leftover.
    told: bool,
}

#[derive(Default, Clone)]
struct Has {
    sandbox: Option<Sandbox>,
    containers: BTreeMap<String, ContainerState>,
}

struct Entry {
    desired: watch::Sender<Arc<Desired>>,
    mail: mpsc::UnboundedSender<Mail>,
    /// Its task has ended; the server may still name it until it has heard.
    gone: bool,
}

/// Images that containers have, or will have when they start again.
#[derive(Debug, Default)]
pub(crate) struct ImagesInUse {
    /// As pods name them.
    pub(crate) names: BTreeSet<String>,
    /// Layers of each container that is here: its name may stand for another image by now.
    pub(crate) layers: BTreeSet<Vec<PathBuf>>,
}

impl Table {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self {
            node,
            inner: Arc::default(),
            changes: Arc::new(watch::Sender::new(0)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These pods are wanted and no others. What else runs here is left alone until a server has confirmed the list,
    /// at once or by [`confirm`](Self::confirm): a list from disk may be a moment older than what it started.
    pub(crate) fn set(&self, pods: Vec<Desired>, confirmed: bool) {
        let wanted: BTreeSet<String> = pods.iter().map(|pod| pod.key.uid.clone()).collect();
        let unwanted: Vec<String> = self
            .lock()
            .pods
            .keys()
            .filter(|uid| !wanted.contains(*uid))
            .cloned()
            .collect();
        unwanted.iter().for_each(|uid| self.remove(uid));
        pods.into_iter().for_each(|pod| self.upsert(pod));
        if confirmed {
            self.confirm();
        }
    }

    /// The pods that are known are those that a server wants here.
    pub(crate) fn confirm(&self) {
        self.lock().told = true;
        self.end_leftovers();
    }

    /// This pod is wanted, like this.
    pub(crate) fn upsert(&self, pod: Desired) {
        let mut inner = self.lock();
        if inner.mirror.is_none() {
            inner.early.retain(|other| other.key.uid != pod.key.uid);
            inner.early.push(pod);
            return;
        }
        match inner.pods.get(&pod.key.uid) {
            Some(entry) => drop(entry.desired.send(Arc::new(pod))),
            None => self.start(&mut inner, pod),
        }
    }

    /// This pod is no longer wanted.
    pub(crate) fn remove(&self, uid: &str) {
        let mut inner = self.lock();
        inner.early.retain(|pod| pod.key.uid != uid);
        let Some(entry) = inner.pods.get(uid) else {
            return;
        };
        if entry.gone {
            inner.pods.remove(uid);
            self.node.outbox.forget(uid);
        } else {
            entry
                .desired
                .send_modify(|pod| Arc::make_mut(pod).removed = true);
        }
    }

    fn start(&self, inner: &mut Inner, pod: Desired) {
        let uid = pod.key.uid.clone();
        let (desired, wanted) = watch::channel(Arc::new(pod));
        let (mail, letters) = mpsc::unbounded_channel();
        let has = inner
            .mirror
            .as_ref()
            .and_then(|mirror| mirror.get(&uid))
            .cloned()
            .unwrap_or_default();
        drop(mail.send(Mail::All(
            has.sandbox,
            has.containers.into_values().collect(),
        )));
        let worker = Worker::new(Arc::clone(&self.node), wanted, letters, mail.clone());
        inner.pods.insert(
            uid.clone(),
            Entry {
                desired,
                mail,
                gone: false,
            },
        );
        let table = self.clone();
        tokio::spawn(async move {
            worker.run().await;
            table.ended(&uid);
        });
    }

    fn ended(&self, uid: &str) {
        let mut inner = self.lock();
        if let Some(mirror) = &mut inner.mirror {
            mirror.remove(uid);
        }
        if let Some(entry) = inner.pods.get_mut(uid) {
            entry.gone = true;
            if entry.desired.borrow().removed {
                inner.pods.remove(uid);
                self.node.outbox.forget(uid);
            }
        }
    }

    /// An image was added to the node's store.
    pub(crate) fn image_added(&self) {
        for entry in self.lock().pods.values() {
            drop(entry.mail.send(Mail::ImageAdded));
        }
    }

    /// Takes in what the supervisor reports.
    pub(crate) fn hear(&self, report: Report) {
        match report {
            Report::All(sandboxes, containers) => self.hear_all(sandboxes, containers),
            Report::Changed(state) => {
                let mut inner = self.lock();
                if let Some(mirror) = &mut inner.mirror {
                    let has = mirror.entry(state.spec.pod.clone()).or_default();
                    has.containers
                        .insert(state.spec.name.clone(), (*state).clone());
                }
                if let Some(entry) = inner.pods.get(&state.spec.pod) {
                    drop(entry.mail.send(Mail::Changed(state)));
                }
            }
        }
        self.changes.send_modify(|count| *count += 1);
    }

    fn hear_all(&self, sandboxes: Vec<Sandbox>, containers: Vec<ContainerState>) {
        let mut mirror: HashMap<String, Has> = HashMap::new();
        for sandbox in sandboxes {
            let has = mirror.entry(sandbox.pod.clone()).or_default();
            has.sandbox = Some(sandbox);
        }
        for state in containers {
            let has = mirror.entry(state.spec.pod.clone()).or_default();
            has.containers.insert(state.spec.name.clone(), state);
        }
        let mut inner = self.lock();
        for (uid, entry) in &inner.pods {
            let has = mirror.get(uid).cloned().unwrap_or_default();
            drop(entry.mail.send(Mail::All(
                has.sandbox,
                has.containers.into_values().collect(),
            )));
        }
        inner.mirror = Some(mirror);
        for pod in std::mem::take(&mut inner.early) {
            self.start(&mut inner, pod);
        }
        drop(inner);
        self.end_leftovers();
    }

    /// Ends what runs here and belongs to no pod that is wanted.
    fn end_leftovers(&self) {
        let mut inner = self.lock();
        if !inner.told {
            return;
        }
        let Some(mirror) = &inner.mirror else { return };
        let strays: Vec<Desired> = mirror
            .iter()
            .filter(|(uid, _)| !inner.pods.contains_key(*uid))
            .map(|(uid, has)| leftover(uid, has))
            .collect();
        for pod in strays {
            tracing::info!(pod = %pod.key, uid = pod.key.uid, "ending a pod that is not wanted here");
            self.start(&mut inner, pod);
        }
    }

    /// A pod that is wanted here.
    pub(crate) fn desired(&self, uid: &str) -> Option<Arc<Desired>> {
        let inner = self.lock();
        inner
            .pods
            .get(uid)
            .filter(|entry| !entry.gone)
            .map(|entry| entry.desired.borrow().clone())
    }

    /// A container as the supervisor last reported it.
    pub(crate) fn container(&self, uid: &str, name: &str) -> Option<ContainerState> {
        self.lock()
            .mirror
            .as_ref()?
            .get(uid)?
            .containers
            .get(name)
            .cloned()
    }

    /// A pod's sandbox as it was when the supervisor was last asked.
    pub(crate) async fn netns(&self, uid: &str) -> Option<std::path::PathBuf> {
        let (sandboxes, _) = self.node.containers.client().await.list().await.ok()?;
        sandboxes
            .into_iter()
            .find(|sandbox| sandbox.pod == uid)?
            .netns
    }

    /// Every container that runs: pod and container name.
    pub(crate) fn running(&self) -> Vec<(PodKey, String)> {
        let inner = self.lock();
        let Some(mirror) = &inner.mirror else {
            return Vec::new();
        };
        let mut running = Vec::new();
        for (uid, has) in mirror {
            let Some(entry) = inner.pods.get(uid) else {
                continue;
            };
            let key = entry.desired.borrow().key.clone();
            let alive = has.containers.values().filter(|state| !state.exited());
            running.extend(alive.map(|state| (key.clone(), state.spec.name.clone())));
        }
        running
    }

    /// Every pod that has a container that runs.
    pub(crate) fn living(&self) -> Vec<Arc<Desired>> {
        let inner = self.lock();
        let has = |uid: &String| inner.mirror.as_ref()?.get(uid);
        let lives = |uid: &String| {
            has(uid).is_some_and(|has| has.containers.values().any(|state| !state.exited()))
        };
        let entries = inner.pods.iter().filter(|(uid, _)| lives(uid));
        entries
            .map(|(_, entry)| entry.desired.borrow().clone())
            .collect()
    }

    /// Gives a pod up; its containers have at most `grace` seconds to end.
    pub(crate) fn evict(&self, uid: &str, message: String, grace: i64) {
        if let Some(entry) = self.lock().pods.get(uid) {
            drop(entry.mail.send(Mail::Evict { message, grace }));
        }
    }

    /// How many pods are here.
    pub(crate) fn count(&self) -> usize {
        self.lock()
            .pods
            .values()
            .filter(|entry| !entry.gone)
            .count()
    }

    /// What of the images is in use; `None` before it is known what runs here.
    pub(crate) fn images_in_use(&self) -> Option<ImagesInUse> {
        let inner = self.lock();
        let mirror = inner.mirror.as_ref()?;
        let containers = mirror.values().flat_map(|has| has.containers.values());
        let layers = containers.map(|state| state.spec.layers.clone()).collect();
        let mut names = BTreeSet::new();
        for entry in inner.pods.values() {
            let pod = entry.desired.borrow();
            names.extend(pod.all_containers().filter_map(|c| c.image.clone()));
        }
        Some(ImagesInUse { names, layers })
    }

    /// Completes when this attempt of a container has ended or is no longer there.
    pub(crate) async fn until_ended(&self, uid: &str, name: &str, attempt: u32) {
        let mut changes = self.changes.subscribe();
        loop {
            let state = self.container(uid, name);
            let lives = state.is_some_and(|state| state.spec.attempt == attempt && !state.exited());
            if !lives || changes.changed().await.is_err() {
                return;
            }
        }
    }
}

/// A pod of which only its remains are known.
fn leftover(uid: &str, has: &Has) -> Desired {
    let spec = has.sandbox.as_ref().map(|sandbox| &sandbox.spec);
    Desired {
        key: PodKey {
            namespace: spec.map(|s| s.namespace.clone()).unwrap_or_default(),
            name: spec.map_or_else(|| uid.to_owned(), |s| s.name.clone()),
            uid: uid.to_owned(),
        },
        pod: Pod {
            spec: Some(PodSpec::default()),
            ..Pod::default()
        },
        ephemeral: Ephemeral::default(),
        config_maps: BTreeMap::new(),
        secrets: BTreeMap::new(),
        volumes: BTreeMap::new(),
        identity: IdentityId(0),
        tenant: TenantId(0),
        addresses: None,
        removed: true,
    }
}
