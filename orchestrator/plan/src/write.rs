//! What a plan asks the server to write. The executor has no choices left: it commits each write with the condition
//! that is in it, and drops the ones whose condition no longer holds (the next snapshot will show why).

use jiff::Timestamp;
use serde_json::Value;

/// What happens to the objects that a deleted object owns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Propagation {
    /// The object goes at once, what it owns afterwards.
    #[default]
    Background,
    /// The object stays, with the finalizer `foregroundDeletion`, until what it owns and blocks it is gone.
    Foreground,
    /// What it owns stays and loses its owner.
    Orphan,
}

/// Which object, for certain: a name can be used again, the uid can't.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// `v1`, `apps/v1`.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Empty for a cluster-scoped one.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// A new object, complete with apiVersion, kind, name and owner references.
    Create(Value),
    /// The object's metadata and spec, if it is still at `metadata.resourceVersion` of the value.
    Update(Value),
    /// The object's status, if it is still at `metadata.resourceVersion` of the value.
    UpdateStatus(Value),
    /// Changes fields of an object, if it still has this uid and is at this version of it.
    Patch {
        /// The object.
        object: ObjectRef,
        /// Its `metadata.resourceVersion`.
        version: String,
        /// A JSON merge patch (RFC 7386). One that has a `status` is of the status alone.
        patch: Value,
    },
    /// Binds a pod to a node (spec.nodeName, PodScheduled=True), if it is still unbound and has this uid.
    Bind {
        /// Pod's namespace.
        namespace: String,
        /// Pod's name.
        name: String,
        /// Pod's uid.
        uid: String,
        /// Node.
        node: String,
    },
    /// Bindings ([`Write::Bind`]) of pods that run together: all of them, or none when one can't be. More of them than
    /// the store takes in one transaction go in by parts.
    Gang(Vec<Write>),
    /// Deletes the object if it still has this uid, as a client's DELETE would: finalizers are honoured.
    Delete {
        /// `v1`, `apps/v1`.
        api_version: String,
        /// Kind.
        kind: String,
        /// Empty for a cluster-scoped one.
        namespace: String,
        /// Name.
        name: String,
        /// Its uid.
        uid: String,
        /// Seconds until it is killed; `None` for the object's own. 0 removes a pod without waiting for its node.
        grace_seconds: Option<i64>,
        /// What becomes of what it owns.
        propagation: Propagation,
    },
    /// Takes `finalizer` from `metadata.finalizers` (of a Namespace: from `spec.finalizers` too) if the object still
    /// has this uid. An object with a deletionTimestamp and no finalizer left is then removed by the executor.
    RemoveFinalizer {
        /// The object.
        object: ObjectRef,
        /// Finalizer.
        finalizer: String,
    },
    /// Takes the owner references with uid `owner_uid` from the object, if it still has this uid.
    RemoveOwner {
        /// The object that is owned.
        object: ObjectRef,
        /// `uid` of the owner.
        owner_uid: String,
    },
}

impl Write {
    /// The bindings of a gang; of any other write itself.
    pub fn parts(&self) -> &[Self] {
        match self {
            Self::Gang(binds) => binds,
            one => std::slice::from_ref(one),
        }
    }
}

/// An Event to be recorded; the server names, counts and dates it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventDraft {
    /// What it is about.
    pub object: ObjectRef,
    /// `Warning` instead of `Normal`.
    pub warning: bool,
    /// CamelCase word, `FailedScheduling`.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
    /// `default-scheduler`, `replicaset-controller`.
    pub component: &'static str,
}

/// The answer of one planner.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// To be committed in this order.
    pub writes: Vec<Write>,
    /// To be recorded after the writes. Not part of "replanning is empty": a planner only offers an event beside a
    /// write.
    pub events: Vec<EventDraft>,
    /// Seconds from `now` after which the planner wants to be asked again though nothing changed.
    pub again_after: Option<u64>,
}

impl Plan {
    /// Asks to be asked again in `seconds`, or sooner if somebody already asked for that.
    pub fn again_in(&mut self, seconds: u64) {
        self.again_after = Some(
            self.again_after
                .map_or(seconds, |before| before.min(seconds)),
        );
    }

    /// Asks to be asked again once `moment` has come, in the first whole second that is not before it.
    pub fn again_when(&mut self, moment: Timestamp, now: Timestamp) {
        let rest = moment.as_millisecond() - now.as_millisecond();
        self.again_in(u64::try_from(rest).unwrap_or(0).div_ceil(1000));
    }

    /// Asks to be asked again once `moment` is past.
    pub fn again_at(&mut self, moment: Timestamp, now: Timestamp) {
        let seconds = (moment.as_second() - now.as_second()).max(0) + 1;
        self.again_in(u64::try_from(seconds).unwrap_or(1));
    }
}
