//! When services come to have backends, as their callers see it.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Between two looks.
const REST: Duration = Duration::from_micros(20);

/// Waits for each of `services` in turn, and says when it had a backend: a datagram socket connects to it then, and is refused
/// before. Nanoseconds since 1970.
pub(crate) fn run(services: &[SocketAddr], patience: Duration) -> Result<Value> {
    let deadline = Instant::now() + patience;
    let mut seen = Vec::new();
    for service in services {
        loop {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("bind")?;
            match socket.connect(service) {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error).with_context(|| format!("connect to {service}")),
            }
            if Instant::now() > deadline {
                bail!("{service} has no backend after {patience:?}");
            }
            std::thread::sleep(REST);
        }
        let at = SystemTime::now().duration_since(UNIX_EPOCH)?;
        seen.push(u64::try_from(at.as_nanos())?);
    }
    Ok(json!({ "seen_ns": seen }))
}
