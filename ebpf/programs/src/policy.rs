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

/// Whether `ruleset` allows `protocol` at the receiver's `port` (network byte order) from or to `other`. Port 0 asks
/// for what allows every port.
#[inline(always)]
pub fn allows(ruleset: u32, other: &Other<'_>, protocol: u8, port: u16) -> bool {
    if ruleset == RULESET_NONE {
        return true;
    }
    let mut key = RuleKey {
        ruleset,
        peer: other.identity,
        protocol,
        pad: 0,
        port,
    };
    if other.identity != PEER_ANY && has(&key) {
        return true;
    }
    key.peer = PEER_ANY;
    if has(&key) {
        return true;
    }
    let block = BlockKey {
        ruleset,
        addr: *other.addr,
    };
    let Some(class) = BLOCKS.get(Key::new(rule_bits::BLOCK, block)) else {
        return false;
    };
    key.peer = *class;
    key.peer != PEER_ANY && has(&key)
}

#[inline(always)]
fn has(key: &RuleKey) -> bool {
    POLICY.get(Key::new(rule_bits::PORT, *key)).is_some()
}
