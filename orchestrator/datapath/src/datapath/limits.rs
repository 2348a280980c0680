//! What the kernel under a datapath does not have, and what takes its place.

use std::sync::atomic::Ordering;

use waggle_model::network::TunnelMode;

use super::Datapath;
use crate::hooks::PacketHooks;

impl Datapath {
    /// How packet programs are attached here.
    pub fn packet_hooks(&self) -> PacketHooks {
        self.programs.hooks
    }

    /// What is missing of what it would use, with what it does instead.
    pub fn limits(&self) -> Vec<String> {
        let edge = self.edge_refused.load(Ordering::Relaxed);
        let tunnel = self.config.tunnel != TunnelMode::Never && self.tunnel.is_none();
        let all = [
            (
                self.packet_hooks() == PacketHooks::Clsact,
                "tcx (Linux 6.6): packet programs are clsact filters",
            ),
            (
                edge,
                "XDP on the uplink's driver: the packet hooks do its work",
            ),
            (
                tunnel,
                "VXLAN: nodes behind a gateway must be routed to by the network between",
            ),
        ];
        all.into_iter()
            .filter(|(missing, _)| *missing)
            .map(|(_, what)| what.to_owned())
            .collect()
    }
}
