//! The program that the tests run as supervisor and worker; not shipped. The shipped binary has the same subcommands.

use std::path::PathBuf;
use std::process::ExitCode;

use waggle_runtime::supervisor::{self, SupervisorOptions};
use waggle_runtime::worker;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let result = match arguments.next().as_deref() {
        Some("supervisor") => {
            let (mut data, mut cgroup) = (PathBuf::new(), String::new());
            while let Some(name) = arguments.next() {
                let value = arguments.next().unwrap_or_default();
                match name.as_str() {
                    "--data" => data = value.into(),
                    "--cgroup" => cgroup = value,
                    _ => return ExitCode::from(2),
                }
            }
            supervisor::main(&SupervisorOptions::new(data, cgroup))
        }
        Some("worker") => worker::main(),
        _ => return ExitCode::from(2),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
