//! All tests, from the quick ones to whole clusters. What the tests need from outside reaches them by environment
//! variables: the binary, the images, the kubectls and other clients.

use anyhow::{Context, Result};
use clap::Args;

use crate::build::{self, Profile};
use crate::run::{cargo, run};
use crate::{clients, images, kubectl, setup, software};

/// Which tests.
#[derive(Args)]
pub(crate) struct Options {
    /// Only these: unit, bpf, kubectl, clients, servers, software, cluster. All when none is named. By their names alone: policy, which
    /// compares the kernel's verdicts with a plain reference, survival, a hundred agents killed under ten thousand
    /// connections, and crashes, thousands of writers of the store killed.
    suites: Vec<Suite>,
    /// Random packets that `policy` compares.
    #[arg(long, default_value_t = 1_000_000)]
    cases: u64,
    /// Writers that `crashes` kills.
    #[arg(long, default_value_t = 3_000)]
    kills: u64,
    /// Only tests whose name contains this.
    #[arg(long)]
    filter: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Suite {
    Unit,
    Bpf,
    Cluster,
    Kubectl,
    Clients,
    Policy,
    Survival,
    Servers,
    Software,
    Crashes,
}

impl Options {
    fn wants(&self, suite: Suite) -> bool {
        let asked = matches!(suite, Suite::Policy | Suite::Survival | Suite::Crashes);
        let usual = self.suites.is_empty() && !asked;
        usual || self.suites.contains(&suite)
    }
}

/// Runs them; the first suite that fails ends it.
pub(crate) fn all(options: &Options) -> Result<()> {
    setup::build_tools()?;
    setup::test_tools()?;
    if options.wants(Suite::Unit) {
        let mut tests = cargo();
        tests
            .args([
                "test",
                "--locked",
                "--workspace",
                "--exclude",
                "waggle-tests",
            ])
            .args(&options.filter);
        run(&mut tests).context("unit tests")?;
    }
    if options.wants(Suite::Bpf) {
        run(&mut rooted("bpf", options)).context("BPF tests")?;
    }
    if options.wants(Suite::Policy) {
        let mut tests = rooted("bpf", options);
        tests
            .arg("the_kernel_agrees_with_the_reference")
            .env("WAGGLE_POLICY_CASES", options.cases.to_string());
        run(&mut tests).context("comparison of policy verdicts")?;
    }
    if options.wants(Suite::Survival) {
        let mut tests = rooted("bpf", options);
        tests
            .arg("killed_and_upgraded")
            .env("WAGGLE_SURVIVAL", "full");
        run(&mut tests).context("survival")?;
    }
    if options.wants(Suite::Crashes) {
        let mut tests = cargo();
        tests
            .args(["test", "--locked", "--release", "--package", "waggle-store"])
            .args(["--test", "survival", "nothing_acknowledged"])
            .env("WAGGLE_STORE_KILLS", options.kills.to_string());
        run(&mut tests).context("crashes of the store")?;
    }
    on_clusters(options)
}

/// The suites that bring clusters up.
fn on_clusters(options: &Options) -> Result<()> {
    let suites = [
        (Suite::Kubectl, "kubectl"),
        (Suite::Clients, "clients"),
        (Suite::Servers, "servers"),
        (Suite::Software, "software"),
        (Suite::Cluster, "cluster"),
    ];
    let wanted: Vec<_> = suites
        .into_iter()
        .filter(|(suite, _)| options.wants(*suite))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let binary = build::waggle(Profile::Dev)?;
    let images = images::sample_application(Profile::Dev)?;
    let kubectls = kubectl::fetch()?;
    for (suite, name) in wanted {
        let mut tests = rooted(name, options);
        tests
            .env("WAGGLE_BIN", &binary)
            .env("WAGGLE_TEST_IMAGES", &images)
            .env("WAGGLE_KUBECTL_OLD", &kubectls.old)
            .env("WAGGLE_KUBECTL_MIDDLE", &kubectls.middle)
            .env("WAGGLE_KUBECTL", &kubectls.current)
            .env("WAGGLE_HELM", &kubectls.helm);
        if suite == Suite::Clients {
            let clients = clients::fetch()?;
            tests
                .env("WAGGLE_PYTHON", &clients.python)
                .env("WAGGLE_CLIENT_NODE", &clients.client_node);
        }
        if suite == Suite::Software {
            tests.env("WAGGLE_SOFTWARE_IMAGES", software::images()?);
        }
        run(&mut tests).with_context(|| format!("{name} tests"))?;
    }
    Ok(())
}

/// A suite of the `tests` crate, one test at a time: they share the machine.
fn rooted(suite: &str, options: &Options) -> std::process::Command {
    let mut tests = cargo();
    tests
        .args([
            "test",
            "--locked",
            "--package",
            "waggle-tests",
            "--test",
            suite,
        ])
        .args(&options.filter);
    tests.args(["--", "--test-threads", "1", "--nocapture"]);
    tests
}
