//! What the pods of `bench density` run, built by rustc alone, without dependencies, statically. `serve` answers every
//! connection with the pod's name; `call NAME=ADDRESS...` asks each by its name (as the node's DNS resolves it) and by
//! its address, and prints a line for each.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

const PORT: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((verb, pairs)) if verb == "call" => call(pairs),
        _ => serve(),
    }
}

fn serve() -> ExitCode {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let Ok(listener) = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)) else {
        return ExitCode::FAILURE;
    };
    for stream in listener.incoming() {
        // A caller that went away needs no answer.
        let _ = stream.and_then(|mut stream| stream.write_all(name.as_bytes()));
    }
    ExitCode::SUCCESS
}

fn call(pairs: &[String]) -> ExitCode {
    let mut all = true;
    for pair in pairs {
        let (name, address) = pair.split_once('=').unwrap_or((pair, ""));
        let by_name = resolve(name).and_then(ask);
        let vip = address.parse::<IpAddr>().map_err(|e| e.to_string());
        let by_address = vip.and_then(ask);
        all &= by_name.is_ok() && by_address.is_ok();
        println!("{name} {} {}", show(by_name), show(by_address));
    }
    if all {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn show(answer: Result<String, String>) -> String {
    match answer {
        Ok(pod) => pod,
        Err(error) => format!("!{}", error.replace(' ', "-")),
    }
}

/// The name of the pod that answers there.
fn ask(address: IpAddr) -> Result<String, String> {
    let mut answer = String::new();
    let mut ask = || {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, PORT), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read_to_string(&mut answer)
    };
    ask().map_err(|error| error.to_string())?;
    Ok(answer.trim().to_owned())
}

/// One A question to the pod's name server, RFC 1035.
fn resolve(name: &str) -> Result<IpAddr, String> {
    let text = std::fs::read_to_string("/etc/resolv.conf").map_err(|e| e.to_string())?;
    let server = text
        .lines()
        .find_map(|line| line.strip_prefix("nameserver "))
        .ok_or("no nameserver")?;
    let server: IpAddr = server.trim().parse().map_err(|_| "a bad nameserver")?;
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(label.len() as u8);
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    let mut answer = [0; 512];
    let mut exchange = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect((server, 53))?;
        socket.send(&question)?;
        socket.recv(&mut answer)
    };
    let length = exchange().map_err(|error| error.to_string())?;
    // Answers follow the question: a name, type A, class, lifetime, four bytes.
    let mut record = answer[..length].get(question.len()..).unwrap_or_default();
    // The name's labels, up to an empty one or a pointer.
    while let [size @ 1..=63, rest @ ..] = record {
        record = rest.get(usize::from(*size)..).unwrap_or_default();
    }
    match record {
        [0xc0, _, 0, 1, _, _, _, _, _, _, 0, 4, a, b, c, d, ..]
        | [0, 0, 1, _, _, _, _, _, _, 0, 4, a, b, c, d, ..] => {
            Ok(Ipv4Addr::new(*a, *b, *c, *d).into())
        }
        _ => Err(format!("no address, code {}", answer[3] & 15)),
    }
}
