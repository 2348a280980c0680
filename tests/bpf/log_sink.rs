//! Collects what the programs log.

use std::sync::Mutex;

struct Sink(Mutex<Vec<String>>);

static SINK: Sink = Sink(Mutex::new(Vec::new()));

impl log::Log for Sink {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().expect("nobody panics in here").push(format!(
            "{} {}",
            record.level(),
            record.args()
        ));
    }
    fn flush(&self) {}
}

/// Makes it the process's logger.
pub(crate) fn install() {
    log::set_logger(&SINK).expect("the only logger");
    log::set_max_level(log::LevelFilter::Warn);
}

/// Whether a line with `text` was logged.
pub(crate) fn has(text: &str) -> bool {
    SINK.0
        .lock()
        .expect("nobody panics in here")
        .iter()
        .any(|line| line.contains(text))
}
