//! The one table of verdict reasons, for both sides of the kernel boundary.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $key:literal, $text:literal;)*) => {
        /// Why a packet or call was let through or not. The number is the index in `COUNTERS`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Reason { $($(#[$doc])* $name = $number,)* }

        impl Reason {
            /// Every reason, in order of its number.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The number.
            #[inline(always)]
            pub const fn number(self) -> u32 {
                self as u32
            }

            /// The reason with that number.
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// A stable word for metrics labels.
            pub const fn key(self) -> &'static str {
                match self { $(Self::$name => $key,)* }
            }

            /// A sentence for people.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }

        /// Key and text of each reason, by number.
        pub const TEXTS: &[(&str, &str)] = &[$(($key, $text),)*];
        pub(crate) const LAYOUT: &str = concat!($(stringify!($name), "=", stringify!($number), ",",)*);
    };
}

reasons! {
    /// Let through.
    Forwarded = 0, "forwarded", "let through";
    /// A call to a VIP became a call to a backend.
    Translated = 1, "translated", "a call to a service was sent to one of its backends";
    /// A header is cut off or contradicts itself.
    Malformed = 2, "malformed", "the packet's headers are cut off or contradict themselves";
    /// Neither IPv4 nor IPv6.
    NotIp = 3, "not_ip", "the packet is neither IPv4 nor IPv6";
    /// The interface is in no table.
    UnknownLink = 4, "unknown_link", "the packet came through an interface that belongs to no known pod";
    /// The source is not the sending pod's.
    InvalidSource = 5, "invalid_source", "the source address is not the sending pod's own";
    /// Multicast, broadcast or link-local.
    LinkScope = 6, "link_scope", "multicast, broadcast and link-local packets do not leave a pod";
    /// An address in the pods' range that no endpoint has.
    UnknownEndpoint = 7, "unknown_endpoint", "the address is in the pods' range but belongs to no known pod";
    /// A packet to a VIP that no socket hook saw.
    Untranslated = 8, "untranslated", "the packet is addressed to a service's virtual address, past the socket hooks";
    /// Other tenant, nothing exported.
    TenantWall = 9, "tenant_wall", "source and destination belong to different tenants and the service is not exported";
    /// A fragment without ports, where ports decide.
    Fragment = 10, "fragment", "a fragment came before the first of its packet, whose ports would decide";
    /// A service without ready backends, or a port that the service lacks.
    NoBackend = 11, "no_backend", "the service has no ready backend at that port";
    /// Tables contradict each other.
    Inconsistent = 12, "inconsistent", "the datapath's tables contradict each other";
    /// Drop events that found the event ring full.
    EventLost = 13, "event_lost", "a drop was counted but its event found the ring buffer full";
    /// The sender's policies.
    PolicyEgress = 14, "policy_egress", "no NetworkPolicy of the sending pod allows it to send this";
    /// The receiver's policies.
    PolicyIngress = 15, "policy_ingress", "no NetworkPolicy of the receiving pod allows this to come in";
    /// Not in the service's source ranges.
    SourceRange = 16, "source_range", "the caller's address is in none of the service's source ranges";
    /// Every port that was tried is taken.
    NoPort = 17, "no_port", "no free port at the node's address was found for a translated flow";
    /// The kernel could not change the packet.
    NotRewritten = 18, "not_rewritten", "the packet's headers could not be rewritten";
    /// What a tunnel brings and what the tables say about its sender don't fit.
    TunnelSource = 19, "tunnel_source", "what came through the tunnel was not sent by the node that has its source, or in another tenant's name";
    /// A tunnel's packet for an address that this node lacks.
    NotHere = 20, "not_here", "what came through the tunnel is for nobody on this node";
}

const _: () = {
    let mut index = 0;
    while index < Reason::ALL.len() {
        assert!(Reason::ALL[index].number() as usize == index);
        index += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keys_and_texts_are_one_to_one() {
        let keys: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|r| r.key()).collect();
        assert_eq!(keys.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(Reason::from_number(reason.number()), Some(*reason));
            assert_eq!(
                TEXTS[reason.number() as usize],
                (reason.key(), reason.text())
            );
        }
        assert_eq!(
            Reason::from_number(u32::try_from(Reason::ALL.len()).unwrap()),
            None
        );
    }
}
