//! Sockets that talk to a backend which their service no longer has: found in the table of all translated sockets, in
//! whatever network namespace they are, and closed there. A thread of its own does it, beside whoever applies.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aya::maps::{Array, HashMap as HashTable, MapData, MapError};
use nix::sched::{CloneFlags, setns};
use waggle_abi::{Addr, PeerRow, ServiceKey, ServiceRow, Slot, TCP, UDP, map, peer_kind, scope};
use waggle_model::ServiceId;
use waggle_model::network::NetworkState;
use waggle_policy::Serving;

use crate::diag::SocketDiag;
use crate::error::{DatapathError, file_error, map_error};
use crate::maps::open;
use crate::pin::Pins;
use crate::sys;

/// A call that chose its backend just before the change may reach its socket just after the first look.
const SECOND_LOOK: Duration = Duration::from_millis(20);

/// What the thread and the datapath share.
#[derive(Default)]
struct Shared {
    serving: Mutex<Serving>,
    namespaces: Mutex<HashMap<u64, PathBuf>>,
}

/// Closes stale sockets. Dropping it ends its thread after what it is at.
pub(crate) struct StaleSockets {
    shared: Arc<Shared>,
    wake: Sender<()>,
    /// Once a state was applied, the next one is compared with it.
    applied: Mutex<bool>,
    /// Something was gone when it was noted, and nobody has looked yet.
    gone: Mutex<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain values, written whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StaleSockets {
    /// Must be called in the node's network namespace, which has the cookie `host_netns`.
    pub(crate) fn start(pins: &Pins, host_netns: u64) -> Result<Self, DatapathError> {
        let home = Path::new("/proc/thread-self/ns/net");
        let home = File::open(home).map_err(file_error("open", home))?;
        let shared = Arc::new(Shared::default());
        let (wake, woken) = channel();
        let closer = Closer {
            shared: shared.clone(),
            home,
            host_netns,
            pins: pins.clone(),
        };
        std::thread::Builder::new()
            .name("stale-sockets".into())
            .spawn(move || closer.run(&woken))
            .map_err(file_error("start the thread of", "stale-sockets"))?;
        Ok(Self {
            shared,
            wake,
            applied: Mutex::new(false),
            gone: Mutex::new(false),
        })
    }

    /// A pod's namespace is at `path`. One that was there before this agent may hold sockets that went stale meanwhile.
    pub(crate) fn know(&self, netns: u64, path: &Path, adopted: bool) {
        lock(&self.shared.namespaces).insert(netns, path.to_owned());
        if adopted && *lock(&self.applied) {
            self.look();
        }
    }

    /// A pod's namespace goes.
    pub(crate) fn forget(&self, netns: u64) {
        lock(&self.shared.namespaces).remove(&netns);
    }

    /// `state` is what the services `moved` are from now on.
    pub(crate) fn note(&self, state: &NetworkState, moved: BTreeSet<ServiceId>) {
        if lock(&self.shared.serving).note(state, moved) {
            *lock(&self.gone) = true;
        }
    }

    /// What was noted is in the kernel's tables. Looks if anything is gone; the first time in any case.
    pub(crate) fn close_soon(&self) {
        let gone = std::mem::take(&mut *lock(&self.gone));
        let first = !std::mem::replace(&mut *lock(&self.applied), true);
        if gone || first {
            self.look();
        }
    }

    fn look(&self) {
        // It only ends when this end does.
        let _ = self.wake.send(());
    }
}

/// The thread's own.
struct Closer {
    shared: Arc<Shared>,
    home: File,
    host_netns: u64,
    pins: Pins,
}

impl Closer {
    fn run(self, woken: &Receiver<()>) {
        while woken.recv().is_ok() {
            loop {
                while woken.try_recv().is_ok() {}
                self.look();
                if woken.recv_timeout(SECOND_LOOK).is_err() {
                    break;
                }
            }
            self.look();
        }
    }

    fn look(&self) {
        match self.sweep() {
            Ok(0) => {}
            Ok(closed) => tracing::info!(closed, "closed sockets to backends that are gone"),
            Err(error) => {
                tracing::warn!(%error, "sockets to backends that are gone may stay open");
            }
        }
    }

    fn sweep(&self) -> Result<usize, DatapathError> {
        let tables = Tables::open(&self.pins)?;
        let mut stale: HashMap<u64, Vec<(u64, PeerRow)>> = HashMap::new();
        let mut slabs = HashMap::new();
        for row in tables.peers.iter() {
            let (cookie, peer) = row.map_err(map_error("read", map::SOCK_PEER))?;
            if peer.kind == peer_kind::CONNECTED
                && !tables.serve(&peer, &mut slabs)
                && !lock(&self.shared.serving).has(&peer)
            {
                stale.entry(peer.netns).or_default().push((cookie, peer));
            }
        }
        let mut closed = 0;
        for (netns, rows) in stale {
            match self.close(netns, &rows) {
                Ok(count) => closed += count,
                // It may be about to go; the others still count.
                Err(error) => {
                    tracing::debug!(netns, %error, "stale sockets of a namespace stay open");
                }
            }
        }
        Ok(closed)
    }

    /// Closes sockets of one namespace, inside it.
    fn close(&self, netns: u64, rows: &[(u64, PeerRow)]) -> io::Result<usize> {
        let result = self
            .enter(netns)
            .and_then(|()| SocketDiag::open())
            .and_then(|diag| {
                let mut closed = 0;
                for protocol in [TCP, UDP] {
                    let cookies: HashSet<u64> = rows
                        .iter()
                        .filter(|(_, peer)| peer.protocol == protocol)
                        .map(|(cookie, _)| *cookie)
                        .collect();
                    if !cookies.is_empty() {
                        closed += diag.destroy(protocol, &cookies)?;
                    }
                }
                Ok(closed)
            });
        // Staying would keep a pod's namespace alive.
        setns(&self.home, CloneFlags::CLONE_NEWNET)?;
        result
    }

    fn enter(&self, netns: u64) -> io::Result<()> {
        if netns == self.host_netns {
            return Ok(());
        }
        let path = lock(&self.shared.namespaces).get(&netns).cloned();
        let path = path.ok_or_else(|| io::Error::other("nobody knows where it is"))?;
        setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
        if sys::netns_cookie()? == netns {
            Ok(())
        } else {
            Err(io::Error::other("its place is another's now"))
        }
    }
}

/// Who talks to whom, and what new calls are translated by.
struct Tables {
    peers: HashTable<MapData, u64, PeerRow>,
    services: HashTable<MapData, ServiceKey, ServiceRow>,
    slots: Array<MapData, Slot>,
}

type Slabs = HashMap<ServiceKey, HashSet<(Addr, u16)>>;

impl Tables {
    fn open(pins: &Pins) -> Result<Self, DatapathError> {
        Ok(Self {
            peers: open(pins, map::SOCK_PEER)?,
            services: open(pins, map::SERVICES)?,
            slots: open(pins, map::SLOTS)?,
        })
    }

    /// Whether a new call to the same address could reach the same backend. A table that can't be read closes nothing.
    fn serve(&self, peer: &PeerRow, slabs: &mut Slabs) -> bool {
        [peer.vip, Addr::any(peer.vip.is_v4())]
            .into_iter()
            .any(|vip| {
                let key = ServiceKey {
                    vip,
                    port: peer.vip_port,
                    protocol: peer.protocol,
                    scope: scope::INSIDE,
                };
                if let Some(slab) = slabs.get(&key) {
                    return slab.contains(&(peer.backend, peer.backend_port));
                }
                match self.slab(&key) {
                    Ok(slab) => {
                        let serves = slab.contains(&(peer.backend, peer.backend_port));
                        slabs.insert(key, slab);
                        serves
                    }
                    Err(_) => true,
                }
            })
    }

    fn slab(&self, key: &ServiceKey) -> Result<HashSet<(Addr, u16)>, MapError> {
        let row = match self.services.get(key, 0) {
            Ok(row) => row,
            Err(MapError::KeyNotFound) => return Ok(HashSet::new()),
            Err(error) => return Err(error),
        };
        (row.base..row.base.saturating_add(row.count))
            .map(|index| {
                let slot = self.slots.get(&index, 0)?;
                Ok((slot.addr, slot.port))
            })
            .collect()
    }
}
