//! The datapath on a real kernel: every verdict through BPF_PROG_TEST_RUN, and real sockets between network namespaces.
//!
//! Needs root. Everything happens in network namespaces that only threads of this process hold, in a mount namespace
//! of its own and in one cgroup folder, `wgt-bpf-<pid>`, which is removed at the end.
#![forbid(unsafe_code)]

mod affinity;
mod cgroup;
mod clsact;
mod counts;
mod direct;
mod fragments;
mod frame;
mod lifecycle;
mod log_sink;
mod measure;
mod mtu;
mod oracle;
mod outside;
mod packets;
mod parsing;
mod policy;
mod programming;
mod random;
mod reference;
mod room;
mod sockets;
mod stale;
mod state;
mod survival;
mod tunnel;
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// One test: a name and what must hold.
type Case = (&'static str, fn());

fn main() -> ExitCode {
    if let Some(code) = survival::role().or_else(measure::role) {
        return code;
    }
    let mut arguments = Arguments::from_args();
    // The machine's noise is loud enough without our own.
    arguments.test_threads.get_or_insert(2);
    let cases: Vec<Case> = [
        packets::CASES,
        sockets::CASES,
        affinity::CASES,
        stale::CASES,
        lifecycle::CASES,
        survival::CASES,
        policy::CASES,
        programming::CASES,
        outside::CASES,
        direct::CASES,
        oracle::CASES,
        tunnel::CASES,
        mtu::CASES,
        counts::CASES,
        fragments::CASES,
        parsing::CASES,
        clsact::CASES,
    ]
    .concat();
    let again = clsact::again(&cases).into_iter().map(|(name, check)| {
        Trial::test(name, move || -> Result<(), Failed> {
            clsact::forced(check);
            Ok(())
        })
    });
    let trials = cases.into_iter().map(|(name, check)| {
        Trial::test(name, move || -> Result<(), Failed> {
            check();
            Ok(())
        })
    });
    let trials = trials.chain(again).collect();
    if arguments.list {
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    let folder = match prepare() {
        Ok(folder) => folder,
        Err(error) => {
            eprintln!("the BPF tests need root and a cgroup v2 hierarchy: {error}");
            return ExitCode::FAILURE;
        }
    };
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(folder);
    conclusion.exit_code()
}

/// While this process has one thread: mounts of its own, and a cgroup of its own.
fn prepare() -> std::io::Result<cgroup::Folder> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )?;
    log_sink::install();
    cgroup::Folder::enter()
}
