//! The supervisor proper: one thread, one event loop that owns the containers of a node. Who asks: `clients`;
//! what the requests do: `sandboxes`, `containers`, `execs`; who does the work: `pool`.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde::{Deserialize, Serialize};

use super::clients::Client;
use super::containers::{Container, Created};
use super::execs::Exec;
use super::keeper::{CoreWord, Exit, KeeperWord};
use super::peer::Peer;
use super::pool::{self, Finished, Pool};
use super::record::{self, Folders};
use super::sandboxes::SandboxEntry;
use super::upgrade::Becoming;
use super::{SupervisorOptions, Wait, handover, lock};
use crate::cgroup::Cgroups;
use crate::cri::Stream;
use crate::error::{Result, RuntimeError};
use crate::protocol::{Fault, JobResult};
use crate::spec::ContainerKey;
use crate::sys::{self, Children, Ending};

/// The longest that the loop sleeps.
const TICK: Duration = Duration::from_secs(2);
/// How often it looks while something has no event of its own.
const SHORT_TICK: Duration = Duration::from_millis(20);
/// Open files that containers get at most, soft and hard, whatever this host would permit.
const OPEN_FILES: (u64, u64) = (65_536, 1 << 20);
/// How long an unknown child's end is remembered; the worker that made it answers sooner.
const STRAY_AGE: Duration = Duration::from_secs(90);

/// What an event is about.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Listener,
    Signals,
    Keeper,
    Client,
    Worker,
    WorkerProcess,
    Container(ContainerKey),
    Output(ContainerKey, Stream),
    Exec,
}

/// Where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) client: u64,
    pub(super) call: u64,
}

/// What follows a job.
#[derive(Debug)]
pub(super) enum Then {
    Sandbox { pod: String },
    Created(Created),
    Started { key: ContainerKey, reply: Reply },
    Deleted { key: ContainerKey },
    Exec { reply: Reply },
}

pub(super) struct Core {
    pub(super) options: SupervisorOptions,
    pub(super) cgroups: Cgroups,
    pub(super) folders: Folders,
    pub(super) boot: String,
    pub(super) pool: Pool<Then>,
    pub(super) sandboxes: BTreeMap<String, SandboxEntry>,
    pub(super) containers: BTreeMap<ContainerKey, Container>,
    pub(super) execs: HashMap<u64, Exec>,
    pub(super) keeper_pid: i32,
    pub(super) epoll: Epoll,
    pub(super) sources: HashMap<u64, Source>,
    pub(super) next_token: u64,
    /// Only one supervisor works in a folder.
    pub(super) lock: File,
    pub(super) listener: UnixListener,
    pub(super) listener_token: u64,
    signals: SignalFd,
    pub(super) clients: HashMap<u64, Client>,
    pub(super) keeper: Option<Peer>,
    /// Children that ended before anybody told us of them.
    pub(super) strays: HashMap<i32, (Ending, Instant)>,
    sweep: bool,
    pub(super) shutdown: Option<Reply>,
    /// What is to become of this process, and when at the latest.
    pub(super) becoming: Option<(Becoming, Instant)>,
}

/// What a supervisor begins with.
pub(super) struct Parts {
    pub(super) lock: File,
    pub(super) listener: UnixListener,
    pub(super) keeper: Option<Peer>,
    pub(super) keeper_pid: i32,
    pub(super) next_token: u64,
}

pub(super) fn run(options: &SupervisorOptions) -> Result<()> {
    let failed = |e: io::Error| RuntimeError::io("supervise", options.data.display(), e);
    let mut core = match handover::received().map_err(failed)? {
        Some(state) => Core::resume(options, state).map_err(failed)?,
        None => Core::first(options).map_err(failed)?,
    };
    core.run().map_err(failed)
}

impl Core {
    /// Begins with what a process that died may have left.
    fn first(options: &SupervisorOptions) -> io::Result<Self> {
        let keeper = Peer::new(io::stdin().as_fd().try_clone_to_owned()?)?;
        nix::unistd::dup2_stdin(&File::open("/dev/null")?)?;
        // A predecessor without a keeper may be at its last steps.
        let lock = lock(&options.data.join("core.lock"), Wait::Long)?;
        let mut core = Core::new(
            options,
            Parts {
                lock,
                listener: listen(options)?,
                keeper: Some(keeper),
                keeper_pid: nix::unistd::getppid().as_raw(),
                next_token: 1,
            },
        )?;
        let (kept, exits) = core.hear_keeper_out()?;
        core.take_over_all(kept, &exits)?;
        Ok(core)
    }

    /// With nothing taken over yet.
    pub(super) fn new(options: &SupervisorOptions, parts: Parts) -> io::Result<Self> {
        set_child_subreaper(true)?;
        sys::set_slice(0, sys::Slice::Short);
        let open_files = raise_open_files()?;
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let folders = Folders::new(&options.data)?;
        let mut core = Core {
            options: options.clone(),
            cgroups: Cgroups::detect()?,
            pool: Pool::new(pool::setup(folders.oci(), folders.sandboxes(), open_files)),
            folders,
            boot: record::boot(),
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
            execs: HashMap::new(),
            keeper_pid: parts.keeper_pid,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            sources: HashMap::new(),
            next_token: parts.next_token,
            lock: parts.lock,
            listener: parts.listener,
            listener_token: 0,
            signals,
            clients: HashMap::new(),
            keeper: parts.keeper,
            strays: HashMap::new(),
            sweep: true,
            shutdown: None,
            becoming: None,
        };
        let token = core.token(Source::Listener);
        core.listener_token = token;
        core.epoll
            .add(&core.listener, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        let token = core.token(Source::Signals);
        core.epoll
            .add(&core.signals, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        let token = core.token(Source::Keeper);
        if let Some(keeper) = &core.keeper {
            core.epoll
                .add(keeper, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        }
        Ok(core)
    }

    /// Everything that is there already.
    pub(super) fn take_over_all(
        &mut self,
        kept: BTreeMap<String, OwnedFd>,
        exits: &[Exit],
    ) -> io::Result<()> {
        self.load_sandboxes()?;
        self.load_containers(kept, exits)
    }

    /// What the keeper has from before; it says all of it at once.
    fn hear_keeper_out(&mut self) -> io::Result<(BTreeMap<String, OwnedFd>, Vec<Exit>)> {
        let (mut kept, mut exits) = (BTreeMap::new(), Vec::new());
        let Some(keeper) = &mut self.keeper else {
            return Ok((kept, exits));
        };
        loop {
            while let Some((word, fds)) = keeper.next::<KeeperWord>()? {
                match word {
                    KeeperWord::Kept { name } => {
                        kept.extend(fds.into_iter().next().map(|fd| (name, fd)))
                    }
                    KeeperWord::Exit(exit) => exits.push(exit),
                    KeeperWord::Ready => return Ok((kept, exits)),
                }
            }
            let mut poll = [nix::poll::PollFd::new(
                keeper.as_fd(),
                nix::poll::PollFlags::POLLIN,
            )];
            nix::poll::poll(&mut poll, 10_000_u16)?;
            if !keeper.fill()? {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the keeper went away",
                ));
            }
        }
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 128];
        loop {
            let timeout = self.timeout();
            let ready = match self.epoll.wait(&mut events, timeout) {
                Ok(n) => n,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(errno) => return Err(errno.into()),
            };
            for event in &events[..ready] {
                self.event(event.data(), event.events())?;
            }
            self.tick()?;
            self.dispatch();
            self.try_becoming();
            if self.finish_shutdown() {
                return Ok(());
            }
            self.flush();
        }
    }

    fn timeout(&mut self) -> EpollTimeout {
        let short = !self.pool.flush()
            || self.becoming.is_some()
            || self.containers.values().any(|c| c.lost.is_some());
        EpollTimeout::try_from(if short { SHORT_TICK } else { TICK }).unwrap_or(EpollTimeout::ZERO)
    }

    fn event(&mut self, token: u64, flags: EpollFlags) -> io::Result<()> {
        let Some(source) = self.sources.get(&token).cloned() else {
            return Ok(());
        };
        match source {
            Source::Listener => self.accept(),
            Source::Signals => {
                while self.signals.read_signal()?.is_some() {}
                self.sweep = true;
            }
            Source::Keeper => self.hear_keeper(),
            Source::Client => self.hear_client(token),
            Source::Worker => {
                let finished = self.pool.readable(token);
                self.finished(finished);
                if flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
                    self.sources.remove(&token);
                }
            }
            Source::WorkerProcess => {
                self.sources.remove(&token);
                self.sweep = true;
                let finished = self.pool.died(token);
                self.finished(finished);
            }
            Source::Container(key) => self.container_ended(&key),
            Source::Output(key, stream) => self.output(&key, stream),
            Source::Exec => self.exec_ended(token),
        }
        Ok(())
    }

    /// What no event brings.
    fn tick(&mut self) -> io::Result<()> {
        self.pool.kill_late();
        self.find_lost();
        self.retry_removals();
        if std::mem::take(&mut self.sweep) {
            self.sweep()?;
        }
        self.strays
            .retain(|_, (_, since)| since.elapsed() < STRAY_AGE);
        Ok(())
    }

    fn dispatch(&mut self) {
        let Core {
            pool,
            epoll,
            sources,
            next_token,
            ..
        } = self;
        let mut register = |source, fd: std::os::fd::BorrowedFd<'_>| -> io::Result<u64> {
            let token = *next_token;
            *next_token += 1;
            epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
            sources.insert(token, source);
            Ok(token)
        };
        let failed = pool.dispatch(|peer, pidfd| {
            Ok((
                register(Source::Worker, peer.as_fd())?,
                register(Source::WorkerProcess, pidfd.as_fd())?,
            ))
        });
        self.finished(failed);
    }

    fn finished(&mut self, finished: impl IntoIterator<Item = Finished<Then>>) {
        for Finished { then, result, fds } in finished {
            // Each creation leaves an unknown child or two.
            self.sweep = true;
            match then {
                Then::Sandbox { pod } => self.sandbox_created(&pod, result),
                Then::Created(created) => self.container_created(&created, result, fds),
                Then::Started { key, reply } => self.container_started(&key, reply, result),
                Then::Deleted { key } => self.container_deleted(&key, result),
                Then::Exec { reply } => self.exec_started(reply, result, fds),
            }
        }
    }

    /// The keeper keeps a stream's descriptor for our successor.
    pub(super) fn keep(&mut self, name: String, fd: &OwnedFd) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let sent = fd
            .try_clone()
            .and_then(|fd| keeper.send(&CoreWord::Keep { name }, vec![fd]));
        if let Err(error) = sent {
            tracing::warn!(%error, "a stream would not survive this supervisor");
        }
    }

    pub(super) fn tell_keeper(&mut self, word: &CoreWord) {
        self.tell_keeper_with(word, Vec::new());
    }

    pub(super) fn tell_keeper_with(&mut self, word: &CoreWord, fds: Vec<OwnedFd>) {
        if let Some(keeper) = &mut self.keeper
            && let Err(error) = keeper.send(word, fds)
        {
            tracing::warn!(%error, "the keeper can't be told");
        }
    }

    fn hear_keeper(&mut self) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        let open = keeper.fill().unwrap_or(false);
        let mut exits = Vec::new();
        while let Ok(Some((word, _))) = keeper.next::<KeeperWord>() {
            if let KeeperWord::Exit(exit) = word {
                exits.push(exit);
            }
        }
        for exit in exits {
            self.keeper_saw(exit);
        }
        if !open {
            self.keeper_gone();
        }
    }

    pub(super) fn keeper_gone(&mut self) {
        if self.keeper.take().is_some() {
            tracing::error!("the keeper died; this process takes its place, another supervises");
            self.begin_becoming(Becoming::Keeper);
        }
    }

    /// Reaps children that no descriptor of ours tells about: what creations leave, and strays.
    fn sweep(&mut self) -> io::Result<()> {
        while let Some((pid, ending)) = sys::wait(Children::Peek)? {
            let container = self
                .containers
                .iter()
                .find(|(_, c)| c.record.pid == Some(pid))
                .map(|(key, _)| key.clone());
            let exec = self
                .execs
                .iter()
                .find(|(_, e)| e.pid == pid)
                .map(|(token, _)| *token);
            if let Some(key) = container {
                self.container_ended(&key);
            } else if let Some(token) = exec {
                self.exec_ended(token);
            } else if self.pool.has(pid) {
                // Its own event is on its way, but it would hide all the others until then.
                return Ok(());
            }
            // Nothing happens when it was reaped just now.
            if sys::wait(Children::Peek)?.is_some_and(|(next, _)| next == pid) {
                sys::wait(Children::Pid(pid))?;
                self.strays.insert(pid, (ending, Instant::now()));
            }
        }
        Ok(())
    }

    /// The end of a child that was reaped before we knew it.
    pub(super) fn take_stray(&mut self, pid: i32) -> Option<Ending> {
        self.strays.remove(&pid).map(|(ending, _)| ending)
    }

    /// Tells the event loop to watch a descriptor.
    pub(super) fn watch(&mut self, fd: impl AsFd, source: Source) -> io::Result<u64> {
        let token = self.token(source);
        self.epoll
            .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        Ok(token)
    }

    /// Before the descriptor is closed: another process may still hold it.
    pub(super) fn unwatch(&mut self, fd: impl AsFd, token: u64) {
        self.sources.remove(&token);
        // It may not be watched any more.
        let _ = self.epoll.delete(fd);
    }

    pub(super) fn token(&mut self, source: Source) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.sources.insert(token, source);
        token
    }
}

fn listen(options: &SupervisorOptions) -> io::Result<UnixListener> {
    let path = options.socket();
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Takes all descriptors that we may have; gives what containers get.
fn raise_open_files() -> io::Result<(u64, u64)> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok((OPEN_FILES.0.min(hard), OPEN_FILES.1.min(hard)))
}

/// A job's result as the process that it made.
pub(super) fn process_of(result: JobResult) -> std::result::Result<(i32, Vec<String>), Fault> {
    match result {
        JobResult::Process { pid, notes } => Ok((pid, notes)),
        JobResult::Failed(fault) => Err(fault),
        JobResult::Done => Err(Fault::internal("the worker made no process")),
    }
}
