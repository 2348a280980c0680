//! What a plan asks the server to write. The executor has no choices left: it commits each write with the condition
//! that is in it, and drops the ones whose condition no longer holds (the next snapshot will show why).

use serde_json::Value;

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// A new object, complete with apiVersion, kind, name and owner references.
    Create(Value),
    /// The object's metadata and spec, if it is still at `metadata.resourceVersion` of the value.
    Update(Value),
    /// The object's status, if it is still at `metadata.resourceVersion` of the value.
    UpdateStatus(Value),
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
    /// Deletes the object if it still has this uid.
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
        /// Seconds until it is killed; `None` for the object's own.
        grace_seconds: Option<i64>,
    },
}

/// The answer of one planner.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// To be committed in this order.
    pub writes: Vec<Write>,
    /// Seconds from `now` after which the planner wants to be asked again though nothing changed.
    pub again_after: Option<u64>,
}
