//! NetworkPolicy: what a ruleset allows. Rulesets are immutable: a number stands for the same rows for ever, and rows
//! of endpoints flip from one number to another.

use aya_ebpf::maps::lpm_trie::Key;
use waggle_abi::{Addr, BlockKey, PEER_ANY, RULESET_NONE, RuleKey, rule_bits};

use crate::maps::{BLOCKS, POLICY};

/// The other side of a packet, as rules name it.
#[derive(Clone, Copy)]
pub struct Other<'a> {
    /// Its identity; 0 for one that is no pod.
    pub identity: u32,
    /// Its address.
    pub addr: &'a Addr,
}

/// The policy by which `ruleset` allows `protocol` at the receiver's `port` (network byte order) from or to `other`; 0
/// where no policy governs. Port 0 asks for what allows every port.
#[inline(always)]
pub fn allows(ruleset: u32, other: &Other<'_>, protocol: u8, port: u16) -> Option<u32> {
    if ruleset == RULESET_NONE {
        return Some(0);
    }
    let mut key = RuleKey {
        ruleset,
        peer: other.identity,
        protocol,
        pad: 0,
        port,
    };
    if other.identity != PEER_ANY
        && let Some(policy) = find(&key)
    {
        return Some(policy);
    }
    key.peer = PEER_ANY;
    if let Some(policy) = find(&key) {
        return Some(policy);
    }
    let block = BlockKey {
        ruleset,
        addr: *other.addr,
    };
    key.peer = *BLOCKS.get(Key::new(rule_bits::BLOCK, block))?;
    if key.peer == PEER_ANY {
        return None;
    }
    find(&key)
}

#[inline(always)]
fn find(key: &RuleKey) -> Option<u32> {
    POLICY.get(Key::new(rule_bits::PORT, *key)).copied()
}
