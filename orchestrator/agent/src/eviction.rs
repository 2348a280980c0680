//! What a node that is short of something does: when it counts as under pressure, and which pod it gives up for that, as
//! kubelet decides it. All of it is plain functions; who looks and carries out is `pressure`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;

use waggle_model::Bytes;

use crate::machine::Machine;
use crate::pods::observed::SECOND;

/// Priority from which on pods keep the cluster itself going.
const SYSTEM_CRITICAL: i32 = 2_000_000_000;
/// Seconds that a pod gets when there is no time to lose.
const AT_ONCE: i64 = 1;

/// What a node may be short of, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Memory that can be had without swapping.
    MemoryAvailable,
    /// Room on the file system of the node's folder.
    NodefsAvailable,
    /// Inodes there.
    NodefsInodesFree,
    /// Room on the file system of images, the same one unless another is mounted there.
    ImagefsAvailable,
    /// Inodes there.
    ImagefsInodesFree,
    /// Process numbers.
    PidAvailable,
}

/// A condition of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    Memory,
    Disk,
    Pid,
}

const SIGNALS: [(Signal, &str); 6] = [
    (Signal::MemoryAvailable, "memory.available"),
    (Signal::NodefsAvailable, "nodefs.available"),
    (Signal::NodefsInodesFree, "nodefs.inodesFree"),
    (Signal::ImagefsAvailable, "imagefs.available"),
    (Signal::ImagefsInodesFree, "imagefs.inodesFree"),
    (Signal::PidAvailable, "pid.available"),
];

impl Signal {
    fn parse(text: &str) -> Result<Self, String> {
        let known = SIGNALS.iter().find(|(_, name)| *name == text);
        known.map(|(signal, _)| *signal).ok_or_else(|| {
            let names = SIGNALS.map(|(_, name)| name).join(", ");
            format!("there is no signal {text:?}: name one of {names}")
        })
    }

    pub(crate) fn pressure(self) -> Pressure {
        match self {
            Signal::MemoryAvailable => Pressure::Memory,
            Signal::NodefsAvailable
            | Signal::NodefsInodesFree
            | Signal::ImagefsAvailable
            | Signal::ImagefsInodesFree => Pressure::Disk,
            Signal::PidAvailable => Pressure::Pid,
        }
    }

    fn resource(self) -> &'static str {
        match self {
            Signal::MemoryAvailable => "memory",
            Signal::NodefsAvailable | Signal::ImagefsAvailable => "ephemeral-storage",
            Signal::NodefsInodesFree | Signal::ImagefsInodesFree => "inodes",
            Signal::PidAvailable => "pids",
        }
    }

    /// How much there is, and of how much; `None` where this host does not count it.
    fn read(self, machine: &Machine) -> Option<(u64, u64)> {
        let (left, whole) = match self {
            Signal::MemoryAvailable => (machine.memory_available, machine.memory),
            Signal::NodefsAvailable => (machine.disk.bytes_free, machine.disk.bytes),
            Signal::NodefsInodesFree => (machine.disk.inodes_free, machine.disk.inodes),
            Signal::ImagefsAvailable => (machine.images.bytes_free, machine.images.bytes),
            Signal::ImagefsInodesFree => (machine.images.inodes_free, machine.images.inodes),
            Signal::PidAvailable => (
                machine.most_tasks.saturating_sub(machine.tasks),
                machine.most_tasks,
            ),
        };
        (whole > 0).then_some((left, whole))
    }
}

/// An amount, or a share of the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Amount {
    /// As it was written.
    written: String,
    value: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Absolute(u64),
    /// In tenths of a percent.
    Share(u64),
}

impl Amount {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no amount: write 100Mi or 10%");
        let value = match text.strip_suffix('%') {
            Some(share) => {
                let (whole, tenth) = share.split_once('.').unwrap_or((share, "0"));
                let whole: u64 = whole.parse().map_err(|_| wrong())?;
                let tenth: u64 = tenth.parse().ok().filter(|t| *t < 10).ok_or_else(wrong)?;
                let tenths = whole.saturating_mul(10) + tenth;
                if tenths > 1000 {
                    return Err(wrong());
                }
                Value::Share(tenths)
            }
            None => {
                let amount: Bytes = text.parse().map_err(|_| wrong())?;
                Value::Absolute(u64::try_from(amount.0).map_err(|_| wrong())?)
            }
        };
        Ok(Self {
            written: text.to_owned(),
            value,
        })
    }

    fn of(&self, whole: u64) -> u64 {
        match self.value {
            Value::Absolute(amount) => amount,
            Value::Share(tenths) => whole / 1000 * tenths,
        }
    }
}

/// What must be left, `memory.available<100Mi,nodefs.available<10%`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Thresholds(BTreeMap<Signal, Amount>);

impl FromStr for Thresholds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (signal, amount) = part
                .split_once('<')
                .ok_or_else(|| format!("{part:?} is no threshold: write SIGNAL<AMOUNT"))?;
            all.insert(Signal::parse(signal)?, Amount::parse(amount)?);
        }
        Ok(Self(all))
    }
}

/// How much more than its threshold is made free once one was passed, `nodefs.available=1Gi`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reclaims(BTreeMap<Signal, Amount>);

impl FromStr for Reclaims {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (signal, amount) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?} is no amount to reclaim: write SIGNAL=AMOUNT"))?;
            all.insert(Signal::parse(signal)?, Amount::parse(amount)?);
        }
        Ok(Self(all))
    }
}

/// How long a soft threshold may be passed, `memory.available=90`, in seconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GracePeriods(BTreeMap<Signal, i64>);

impl GracePeriods {
    /// Reads `SIGNAL=DURATION,...`; `duration` reads one of these.
    ///
    /// # Errors
    /// What is wrong, for a person.
    pub fn parse(
        text: &str,
        duration: impl Fn(&str) -> Result<Duration, String>,
    ) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (signal, time) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?} is no grace period: write SIGNAL=DURATION"))?;
            let seconds = duration(time)?.as_secs();
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX / SECOND);
            all.insert(Signal::parse(signal)?, seconds);
        }
        Ok(Self(all))
    }
}

/// When a node gives pods up. The default is kubelet's, with a threshold for process numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvictionOptions {
    /// Passed: pods go at once.
    pub hard: Thresholds,
    /// Passed for longer than their grace period: pods go.
    pub soft: Thresholds,
    /// For each soft threshold.
    pub soft_grace: GracePeriods,
    /// Seconds that pods have to end when a soft threshold is passed, at most; 0 is what hard ones give.
    pub most_grace: i64,
    /// How long a pressure holds after it was last seen.
    pub transition: Duration,
    /// For each signal.
    pub reclaim: Reclaims,
}

impl Default for EvictionOptions {
    fn default() -> Self {
        let usual = [
            (Signal::MemoryAvailable, "100Mi", Value::Absolute(100 << 20)),
            (Signal::NodefsAvailable, "10%", Value::Share(100)),
            (Signal::NodefsInodesFree, "5%", Value::Share(50)),
            (Signal::PidAvailable, "10%", Value::Share(100)),
        ];
        let amount = |written: &str, value| Amount {
            written: written.to_owned(),
            value,
        };
        Self {
            hard: Thresholds(
                usual
                    .map(|(s, text, value)| (s, amount(text, value)))
                    .into(),
            ),
            soft: Thresholds::default(),
            soft_grace: GracePeriods::default(),
            most_grace: 0,
            transition: Duration::from_secs(300),
            reclaim: Reclaims::default(),
        }
    }
}

impl EvictionOptions {
    /// Refuses a soft threshold that says not how long.
    ///
    /// # Errors
    /// Names it.
    pub fn check(&self) -> Result<(), String> {
        let lacks = |signal: &&Signal| !self.soft_grace.0.contains_key(*signal);
        match self.soft.0.keys().find(lacks) {
            None => Ok(()),
            Some(signal) => {
                let known = SIGNALS.iter().find(|(s, _)| s == signal);
                let name = known.map_or("", |(_, name)| name);
                Err(format!(
                    "--eviction-soft {name} has no grace period: give --eviction-soft-grace-period {name}=1m30s"
                ))
            }
        }
    }

    /// What pods can't have of memory and disk: below it they are given up.
    pub(crate) fn kept(&self, machine: &Machine) -> (u64, u64) {
        let least = |signal: Signal, whole| self.hard.0.get(&signal).map_or(0, |a| a.of(whole));
        (
            least(Signal::MemoryAvailable, machine.memory),
            least(Signal::NodefsAvailable, machine.disk.bytes),
        )
    }
}

/// A threshold that is passed for long enough that something must go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) signal: Signal,
    /// It was not when somebody looked last.
    pub(crate) news: bool,
    threshold: String,
    available: u64,
    /// Seconds that a pod has to end, at most.
    grace: i64,
}

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub(crate) struct Watcher {
    /// Since when each threshold is passed; `true` for the soft one.
    passed: BTreeMap<(Signal, bool), i64>,
    /// When each pressure was last seen.
    seen: BTreeMap<Pressure, i64>,
    /// Thresholds that are due.
    told: BTreeSet<(Signal, bool)>,
}

impl Due {
    /// What is tried against it, as kubelet says it.
    pub(crate) fn message(&self) -> String {
        format!("Attempting to reclaim {}", self.signal.resource())
    }
}

impl Watcher {
    /// Takes a reading in: the pressures that hold, and what is due, the most urgent first.
    pub(crate) fn look(
        &mut self,
        options: &EvictionOptions,
        machine: &Machine,
        now: i64,
    ) -> (BTreeSet<Pressure>, Vec<Due>) {
        let mut due = Vec::new();
        for (soft, thresholds) in [(false, &options.hard), (true, &options.soft)] {
            for (signal, amount) in &thresholds.0 {
                // Reclaimed beyond it is what was due, not what only came close.
                let was_due = self.told.contains(&(*signal, soft));
                let reclaim = options.reclaim.0.get(signal).filter(|_| was_due);
                let least = |all| {
                    let more = reclaim.map_or(0, |more| more.of(all));
                    amount.of(all).saturating_add(more)
                };
                let reading = signal.read(machine);
                let Some((available, _)) = reading.filter(|(left, all)| *left < least(*all)) else {
                    self.passed.remove(&(*signal, soft));
                    self.told.remove(&(*signal, soft));
                    continue;
                };
                self.seen.insert(signal.pressure(), now);
                let since = *self.passed.entry((*signal, soft)).or_insert(now);
                let patience = match soft {
                    true => options.soft_grace.0.get(signal).copied().unwrap_or(0),
                    false => 0,
                };
                if now.saturating_sub(since) >= patience.saturating_mul(SECOND) {
                    let grace = if soft {
                        options.most_grace.max(AT_ONCE)
                    } else {
                        AT_ONCE
                    };
                    due.push(Due {
                        news: self.told.insert((*signal, soft)),
                        signal: *signal,
                        threshold: amount.written.clone(),
                        available,
                        grace,
                    });
                }
            }
        }
        let holds = i64::try_from(options.transition.as_nanos()).unwrap_or(i64::MAX);
        self.seen
            .retain(|_, at| now == *at || now.saturating_sub(*at) < holds);
        // Stable: a hard threshold goes before a soft one of the same signal.
        due.sort_by_key(|due| due.signal);
        (self.seen.keys().copied().collect(), due)
    }
}

/// What a pod takes of something, and asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) used: u64,
    pub(crate) asked: u64,
}

impl Share {
    fn over(self) -> i128 {
        i128::from(self.used) - i128::from(self.asked)
    }
}

/// A pod that runs here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) uid: String,
    pub(crate) priority: i32,
    /// From a folder of this node: nobody would make it anew elsewhere.
    pub(crate) is_static: bool,
    pub(crate) memory: Share,
    pub(crate) disk: Share,
    pub(crate) inodes: u64,
    pub(crate) processes: u64,
}

/// A pod that is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Victim {
    pub(crate) uid: String,
    pub(crate) message: String,
    pub(crate) grace: i64,
}

/// Who goes for what is due: first who uses more than it asked for, then the lower priority, then who is further above
/// what it asked for. `None` when nobody may go.
pub(crate) fn victim(due: &Due, pods: &[Candidate]) -> Option<Victim> {
    let share = |pod: &Candidate| match due.signal {
        Signal::MemoryAvailable => pod.memory,
        Signal::NodefsAvailable | Signal::ImagefsAvailable => pod.disk,
        // Nobody asks for these: only how many there are counts.
        Signal::NodefsInodesFree | Signal::ImagefsInodesFree => Share {
            used: pod.inodes,
            asked: 0,
        },
        Signal::PidAvailable => Share {
            used: pod.processes,
            asked: 0,
        },
    };
    let rank = |pod: &&Candidate| {
        let share = share(pod);
        (
            share.over() <= 0,
            pod.priority,
            Reverse(share.over()),
            pod.uid.clone(),
        )
    };
    let may_go = |pod: &&Candidate| !pod.is_static && pod.priority < SYSTEM_CRITICAL;
    let pod = pods.iter().filter(may_go).min_by_key(rank)?;
    let (resource, share) = (due.signal.resource(), share(pod));
    let text = |amount: u64| match due.signal {
        Signal::MemoryAvailable | Signal::NodefsAvailable | Signal::ImagefsAvailable => {
            format!("{}Ki", amount / 1024)
        }
        Signal::NodefsInodesFree | Signal::ImagefsInodesFree | Signal::PidAvailable => {
            amount.to_string()
        }
    };
    let mut message = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        due.threshold,
        text(due.available)
    );
    if share.over() > 0 {
        message += &format!(
            "The pod was using {}, request is {}, has larger consumption of {resource}. ",
            text(share.used),
            text(share.asked)
        );
    }
    Some(Victim {
        uid: pod.uid.clone(),
        message,
        grace: due.grace,
    })
}

#[cfg(test)]
mod tests;
