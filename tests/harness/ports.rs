//! Ports of this machine that nobody uses.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context as _, Result};

/// Where to look: above what services have, below what the kernel gives to connections, which would take one between the
/// look and its use.
const FIRST: u16 = 18_000;
const COUNT: u16 = 14_000;

/// The first of `count` ports in a row that are free now. Another process, or another call, looks elsewhere first.
///
/// # Errors
/// There are none.
pub fn free_ports(count: u16) -> Result<u16> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let start = std::process::id().wrapping_mul(64).wrapping_add(call * 16);
    let places = u32::from(COUNT - count);
    (0..places)
        .filter_map(|step| u16::try_from(start.wrapping_add(step * u32::from(count)) % places).ok())
        .map(|offset| FIRST + offset)
        .find(|first| (*first..first + count).all(is_free))
        .with_context(|| format!("no {count} ports in a row are free"))
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
