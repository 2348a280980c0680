//! One connection between two pods: how long a byte takes there and back, and how much goes through in a second.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::race::{pin, summary};

const CHUNK: usize = 64 * 1024;

/// Sends each single byte back; whoever sends more at once gets one byte when all has arrived. Forever.
pub(crate) fn echo(port: u16, cpu: usize) -> Result<()> {
    pin(cpu)?;
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("echoing on port {port}");
    for stream in listener.incoming() {
        // A client that goes away early is no reason to stop.
        let _ = answer(stream.context("accept")?);
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 4 * CHUNK];
    let mut bulk = false;
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            1 if !bulk => stream.write_all(&buffer[..1])?,
            _ => bulk = true,
        }
    }
    stream.write_all(b".")
}

/// Round trips of one byte, then `megabytes` in one go.
pub(crate) fn pingpong(
    target: SocketAddr,
    rounds: usize,
    megabytes: usize,
    cpu: usize,
) -> Result<Value> {
    pin(cpu)?;
    let mut stream = TcpStream::connect(target).with_context(|| format!("connect {target}"))?;
    stream.set_nodelay(true)?;
    let mut times = Vec::with_capacity(rounds);
    for round in 0..rounds + rounds / 10 {
        let start = Instant::now();
        stream.write_all(b"x").context("send")?;
        stream.read_exact(&mut [0]).context("receive")?;
        if round >= rounds / 10 {
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    let mut bulk = TcpStream::connect(target).with_context(|| format!("connect {target}"))?;
    // The server serves one at a time.
    drop(stream);
    let chunk = vec![0; CHUNK];
    let start = Instant::now();
    for _ in 0..megabytes * 1_000_000 / CHUNK {
        bulk.write_all(&chunk).context("send")?;
    }
    bulk.shutdown(Shutdown::Write)?;
    bulk.read_exact(&mut [0]).context("receive")?;
    let rate = megabytes as f64 / start.elapsed().as_secs_f64();
    Ok(json!({"failed": 0, "round_trip_us": summary(times), "megabytes_per_second": rate}))
}
