//! The one shipped binary: arguments, configuration, tracing, signals and wiring of the roles. What a role does is in its
//! own crate.
#![forbid(unsafe_code)]

mod args;
mod logging;
mod roles;

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::{CommandFactory, Parser};

use args::{Action, Arguments};

/// Version of this build, with the commit when it is known.
pub(crate) const VERSION: &str = if env!("WAGGLE_COMMIT").is_empty() {
    env!("CARGO_PKG_VERSION")
} else {
    concat!(env!("CARGO_PKG_VERSION"), "+", env!("WAGGLE_COMMIT"))
};

/// libcontainer logs what it also gives back as an error.
const SUPERVISOR_LOG: &str = "info,libcontainer=off,libcgroups=off";

fn main() -> ExitCode {
    let arguments = Arguments::try_parse().unwrap_or_else(|error| {
        let code = if error.use_stderr() {
            waggle_cli::USAGE
        } else {
            0
        };
        // Nowhere to write to is no reason for another code.
        let _closed = error.print();
        std::process::exit(code.into())
    });
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes as one line; a cause that the error's own words already give is left out.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(&format!(": {cause}"));
        }
    }
    text
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        // Single-threaded processes: before any thread or runtime is made.
        Action::Supervisor(args) => {
            logging::start(SUPERVISOR_LOG)?;
            roles::supervisor(args)
        }
        Action::Worker => {
            logging::start(SUPERVISOR_LOG)?;
            roles::worker()
        }
        Action::Dev(args) => {
            install_tls()?;
            waggle_cli::dev::run(args)
        }
        Action::Server(args) => {
            install_tls()?;
            logging::start("info")?;
            in_runtime(roles::server(args))
        }
        Action::Restore(args) => {
            install_tls()?;
            logging::start("warn")?;
            in_runtime(roles::restore(args))
        }
        Action::Agent(args) => {
            install_tls()?;
            logging::start("info,hickory_server=warn")?;
            in_runtime(roles::agent(args))
        }
        Action::Verb(verb) => {
            install_tls()?;
            // The client library logs what it also gives back as an error, which is printed.
            logging::start("warn,kube_client=off")?;
            in_runtime(waggle_cli::run(
                verb,
                arguments.globals,
                Arguments::command(),
                VERSION,
            ))
        }
    }
}

fn install_tls() -> Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow!("another TLS provider was installed before"))
}

/// Runs to the end, and does not wait for what still blocks, such as a read from a terminal.
fn in_runtime(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_with_its_causes_once() {
        let error = anyhow!("refused")
            .context("cannot connect: refused")
            .context("cannot list pods");
        assert_eq!(
            sentence(&error),
            "cannot list pods: cannot connect: refused"
        );
    }
}
