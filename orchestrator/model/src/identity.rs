//! Numbers that stand for things in the kernel's tables, and the order of plans.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// Stands for (tenant, namespace, labels and named ports of pods). 0 is nobody.
    IdentityId, u32
);
number!(
    /// Stands for a tenant in the kernel. 0 is nobody, [`TenantId::SYSTEM`] is reachable from everywhere.
    TenantId, u32
);
number!(
    /// Stands for a Service in the kernel and in network deltas. 0 is none.
    ServiceId, u32
);
number!(
    /// Stands for a NetworkPolicy in the kernel and in network deltas. 0 is none.
    PolicyId, u32
);
number!(
    /// Orders plans for one node: an older one is refused. 0 is "nothing applied yet".
    Generation, u64
);

impl TenantId {
    /// The cluster itself: nodes, DNS, the API.
    pub const SYSTEM: Self = Self(1);
}

impl IdentityId {
    /// Nodes and whatever runs in their own network namespace.
    pub const HOST: Self = Self(1);
}

impl Generation {
    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
