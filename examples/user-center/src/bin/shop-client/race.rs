//! Two ways to the same server, tried in turn inside one process on one processor: differences between processes are
//! larger than what is to be measured.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Answers one byte for one byte, forever.
pub(crate) fn answer(port: u16, cpu: usize) -> Result<()> {
    pin(cpu)?;
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("answering on port {port}");
    for stream in listener.incoming() {
        let mut stream = stream.context("accept")?;
        let mut byte = [0];
        // A client that goes away early is no reason to stop.
        if stream.read_exact(&mut byte).is_ok() {
            let _ = stream.write_all(&byte);
        }
    }
    Ok(())
}

/// Connect, one byte there and back, close; direct and through the VIP in turn. Times in microseconds.
pub(crate) fn race(
    direct: SocketAddr,
    vip: SocketAddr,
    rounds: usize,
    cpu: usize,
) -> Result<Value> {
    pin(cpu)?;
    for _ in 0..rounds / 10 {
        lap(direct)?;
        lap(vip)?;
    }
    let (mut directs, mut vips, mut differences) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        // Whoever goes first in a pair pays for cold caches, so they take turns at that as well.
        let (a, b) = if round % 2 == 0 {
            let a = lap(direct)?;
            (a, lap(vip)?)
        } else {
            let b = lap(vip)?;
            (lap(direct)?, b)
        };
        directs.push(a);
        vips.push(b);
        differences.push(b - a);
    }
    Ok(
        json!({"failed": 0, "direct_us": summary(directs), "vip_us": summary(vips), "difference_us": summary(differences)}),
    )
}

/// As many callers at once as told, on one processor, each with one connection after the other, for this long.
pub(crate) fn rate(
    target: SocketAddr,
    callers: usize,
    time: Duration,
    cpu: usize,
) -> Result<Value> {
    pin(cpu)?;
    lap(target)?;
    let start = Instant::now();
    let call = || -> Result<u64> {
        let mut connections = 0;
        while start.elapsed() < time {
            lap(target)?;
            connections += 1;
        }
        Ok(connections)
    };
    let counts: Vec<Result<u64>> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..callers).map(|_| scope.spawn(call)).collect();
        let join = |caller: ScopedJoinHandle<'_, Result<u64>>| {
            caller.join().unwrap_or_else(|_| bail!("a caller panicked"))
        };
        callers.into_iter().map(join).collect()
    });
    let elapsed = start.elapsed().as_secs_f64();
    let total = counts.into_iter().sum::<Result<u64>>()?;
    Ok(json!({"failed": 0, "connections_per_second": total as f64 / elapsed}))
}

fn lap(target: SocketAddr) -> Result<f64> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(target).with_context(|| format!("connect {target}"))?;
    stream.write_all(b"x").context("send")?;
    stream.read_exact(&mut [0]).context("receive")?;
    // Reset instead of TIME_WAIT: ports would run out.
    setsockopt(
        &stream,
        sockopt::Linger,
        &libc::linger {
            l_onoff: 1,
            l_linger: 0,
        },
    )?;
    drop(stream);
    Ok(start.elapsed().as_secs_f64() * 1e6)
}

pub(crate) fn summary(mut samples: Vec<f64>) -> Value {
    samples.sort_by(f64::total_cmp);
    let at = |share: f64| samples[((samples.len() - 1) as f64 * share) as usize];
    json!({"p25": at(0.25), "p50": at(0.5), "p75": at(0.75), "p99": at(0.99)})
}

pub(crate) fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("sched_setaffinity")
}
