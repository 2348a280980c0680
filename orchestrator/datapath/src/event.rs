//! What programs report: drops, denials and what is new through the event ring, their own remarks through aya-log.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use tokio::io::unix::AsyncFd;
use waggle_abi::{Addr, Event, Reason, TCP, UDP, hook};
use waggle_model::TenantId;

use crate::error::DatapathError;
use crate::program::Logger;

/// One packet or call that was not let through, or the first of a flow that was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowEvent {
    /// Since boot, without suspend.
    pub time: Duration,
    /// Why.
    pub reason: Reason,
    /// Where.
    pub hook: &'static str,
    /// Source; `None` when it could not be read.
    pub source: Option<SocketAddr>,
    /// Destination; `None` when it could not be read.
    pub destination: Option<SocketAddr>,
    /// IANA number; 0 when it could not be read.
    pub protocol: u8,
    /// Tenant of the source; 0 when unknown.
    pub source_tenant: TenantId,
    /// Tenant of the destination; 0 when unknown.
    pub destination_tenant: TenantId,
    /// Interface; 0 for calls.
    pub ifindex: u32,
}

/// What became of a packet or call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Not let through.
    Drop,
    /// Let through as it was.
    Forward,
    /// Sent on to another address.
    Translate,
}

impl Verdict {
    /// What a reason stands for.
    pub fn of(reason: Reason) -> Option<Self> {
        match reason {
            Reason::Forwarded => Some(Self::Forward),
            Reason::Translated => Some(Self::Translate),
            // It is about a report, not about a packet.
            Reason::EventLost => None,
            _ => Some(Self::Drop),
        }
    }

    /// As it is spelled in logs and metrics.
    pub fn key(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Forward => "forward",
            Self::Translate => "translate",
        }
    }
}

/// The clock that [`FlowEvent::time`] is of, now.
pub fn since_boot() -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a timespec that outlives the call; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let whole = |number: i64| u64::try_from(number).unwrap_or(0);
    Duration::from_secs(whole(now.tv_sec)) + Duration::from_nanos(whole(now.tv_nsec))
}

impl FlowEvent {
    fn of(event: &Event) -> Option<Self> {
        let end = |addr: Addr, port: u16| {
            (addr != Addr::NONE).then(|| SocketAddr::new(IpAddr::from(addr), u16::from_be(port)))
        };
        Some(Self {
            time: Duration::from_nanos(event.time),
            reason: Reason::from_number(event.reason)?,
            hook: match event.hook {
                hook::CONNECT => "connect",
                hook::SENDMSG => "sendmsg",
                hook::FROM_POD => "from_pod",
                hook::TO_POD => "to_pod",
                hook::FROM_UPLINK => "from_uplink",
                hook::TO_UPLINK => "to_uplink",
                hook::FROM_TUNNEL => "from_tunnel",
                hook::TO_TUNNEL => "to_tunnel",
                hook::EDGE => "edge",
                _ => "unknown",
            },
            source: end(event.src, event.src_port),
            destination: end(event.dst, event.dst_port),
            protocol: event.protocol,
            source_tenant: TenantId(event.src_tenant),
            destination_tenant: TenantId(event.dst_tenant),
            ifindex: event.ifindex,
        })
    }
}

impl fmt::Display for FlowEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end =
            |end: Option<SocketAddr>| end.map_or_else(|| "?".to_owned(), |end| end.to_string());
        let protocol = match self.protocol {
            TCP => "tcp".to_owned(),
            UDP => "udp".to_owned(),
            1 => "icmp".to_owned(),
            58 => "icmpv6".to_owned(),
            number => format!("protocol {number}"),
        };
        write!(
            f,
            "{}: {protocol} {} -> {} (tenant {} -> {}): {}",
            self.hook,
            end(self.source),
            end(self.destination),
            self.source_tenant,
            self.destination_tenant,
            self.reason.text()
        )
    }
}

/// Reads reports as they come. There is one position in the ring: two readers would share what there is.
pub struct FlowEvents {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl FlowEvents {
    pub(crate) fn new(ring: RingBuf<MapData>) -> Result<Self, DatapathError> {
        // SAFETY: the ring owns its descriptor and never gives away another.
        let ring = unsafe { AsyncFd::register(ring) }.map_err(|error| logs(error.into()))?;
        Ok(Self { ring })
    }

    /// The next drop.
    ///
    /// # Errors
    /// [`DatapathError::Logs`] when the ring can't be waited on.
    pub async fn next(&mut self) -> Result<FlowEvent, DatapathError> {
        loop {
            if let Some(event) = self.take() {
                return Ok(event);
            }
            let mut ready = self.ring.readable().await.map_err(logs)?;
            // Looked at once more after this, so nothing that came in between waits.
            ready.clear_ready();
            if let Some(event) = self.take() {
                return Ok(event);
            }
        }
    }

    /// The next drop, if one is there already.
    pub fn take(&mut self) -> Option<FlowEvent> {
        loop {
            let item = self.ring.get_mut().next()?;
            let bytes: &[u8] = &item;
            if bytes.len() < size_of::<Event>() {
                continue;
            }
            // SAFETY: long enough, every bit pattern is an Event, and read_unaligned asks for no alignment.
            let event = unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() };
            // One of a reason that this build doesn't know must not hide those behind it.
            if let Some(drop) = FlowEvent::of(&event) {
                return Some(drop);
            }
        }
    }
}

/// Hands what programs log to the `log` facade, from where tracing takes it, until reading fails.
pub(crate) async fn forward_logs(loggers: Vec<Logger>) -> DatapathError {
    let readers = loggers.into_iter().map(|logger| Box::pin(forward(logger)));
    let (fault, ..) = futures::future::select_all(readers).await;
    fault
}

async fn forward(logger: Logger) -> DatapathError {
    // SAFETY: the logger's ring owns its descriptor and never gives away another.
    let mut logger = match unsafe { AsyncFd::register(logger) } {
        Ok(logger) => logger,
        Err(error) => return logs(error.into()),
    };
    tracing::debug!(fd = logger.as_raw_fd(), "reading what the programs log");
    loop {
        match logger.readable_mut().await {
            Ok(mut ready) => {
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
            Err(error) => return logs(error),
        }
    }
}

fn logs(error: std::io::Error) -> DatapathError {
    DatapathError::Logs {
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_reads_as_one_sentence() {
        let addr = |text: &str| Addr::from(text.parse::<IpAddr>().unwrap());
        let event = Event {
            reason: Reason::TenantWall.number(),
            hook: hook::CONNECT,
            src: addr("10.244.0.2"),
            dst: addr("10.96.0.5"),
            dst_port: 80u16.to_be(),
            protocol: TCP,
            src_tenant: 3,
            dst_tenant: 2,
            ..Event::default()
        };
        assert_eq!(
            FlowEvent::of(&event).unwrap().to_string(),
            "connect: tcp 10.244.0.2:0 -> 10.96.0.5:80 (tenant 3 -> 2): source and destination belong to different \
             tenants and the service is not exported"
        );
        assert_eq!(
            FlowEvent::of(&Event {
                reason: 999,
                ..event
            }),
            None
        );
    }
}
