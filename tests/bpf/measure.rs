//! Figures, for `cargo xtask bench datapath`: started as `measure WHAT [NUMBER]`, this binary prints one line of JSON
//! for each cell. No tests, because figures depend on the machine.

mod forwarding;
mod policy;
mod programming;

use std::process::ExitCode;
use std::time::Duration;

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use serde_json::{Value, json};

use crate::world::{World, run_context};

/// Measures when the command line says so.
pub(crate) fn role() -> Option<ExitCode> {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() != Some("measure") {
        return None;
    }
    let what = words.next().unwrap_or_default();
    let number = words.next().map(|word| word.parse().expect("a number"));
    let measure: fn(u32) = match what.as_str() {
        "forwarding" => forwarding::measure,
        "policy" => policy::measure,
        "programming" => programming::measure,
        other => panic!("nothing to measure is called {other:?}: forwarding, policy, programming"),
    };
    let folder = crate::prepare().expect("root and a cgroup v2 hierarchy");
    measure(number.unwrap_or(1_000));
    drop(folder);
    Some(ExitCode::SUCCESS)
}

/// Lowest, median and highest, in the unit of the samples.
fn spread(mut samples: Vec<f64>) -> Value {
    samples.sort_by(f64::total_cmp);
    let at = |share: f64| samples[((samples.len() - 1) as f64 * share).round() as usize];
    json!({ "low": at(0.0), "p50": at(0.5), "p90": at(0.9), "high": at(1.0) })
}

/// One run of a program over `frame` that came by interface `ifindex`, the mean of `repeat`, and its verdict. The frame
/// stays as the run before left it.
fn run(
    world: &World,
    program: &str,
    ifindex: u32,
    frame: &[u8],
    repeat: u32,
    rounds: usize,
) -> (Vec<Duration>, u32) {
    let (pin, frame) = (world.pin("programs", program), frame.to_vec());
    let name = program.to_owned();
    world.host.run(move || {
        let program = SchedClassifier::from_pin(pin).expect("pinned");
        let context = run_context(&name, ifindex, frame.len());
        let mut verdict = 0;
        let once = |_| {
            let options = TestRunOptions {
                data_in: Some(&frame),
                ctx_in: Some(&context),
                repeat,
                ..TestRunOptions::default()
            };
            let result = program.test_run(options).expect("the kernel runs it");
            verdict = result.return_value;
            result.duration
        };
        let times = (0..rounds).map(once).collect();
        (times, verdict)
    })
}

fn nanoseconds(times: &[Duration]) -> Vec<f64> {
    times.iter().map(|time| time.as_nanos() as f64).collect()
}
