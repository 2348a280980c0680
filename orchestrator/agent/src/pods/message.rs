//! The last word of a container: what it left at its `terminationMessagePath`, or the end of its log if that may speak
//! for it.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use waggle_runtime::spec::{ContainerPhase, ContainerState};

use super::worker::Worker;

/// What a termination message may hold, bytes.
const FILE_BYTES: usize = 4096;
/// What of a log may stand for it: bytes and lines.
const LOG_BYTES: usize = 2048;
const LOG_LINES: usize = 80;

/// Where a container's attempt leaves its message, below the pod's folder.
pub(super) fn message_file(folder: &Path, container: &str, attempt: u32) -> PathBuf {
    folder
        .join("messages")
        .join(container)
        .join(attempt.to_string())
}

impl Worker {
    /// What an ended container has to say.
    pub(super) fn termination_message(&self, state: &ContainerState) -> String {
        let uid = &self.pod.key.uid;
        let (name, attempt) = (&state.spec.name, state.spec.attempt);
        let path = message_file(&self.node.folder.pod(uid), name, attempt);
        let bytes = std::fs::read(path).unwrap_or_default();
        let cut = &bytes[..bytes.len().min(FILE_BYTES)];
        let mut containers = self.pod.all_containers();
        let policy = containers
            .find(|c| c.name == *name)
            .and_then(|c| c.termination_message_policy.clone());
        let failed = matches!(state.phase, ContainerPhase::Exited { code, .. } if code != 0);
        if cut.is_empty() && failed && policy.as_deref() == Some("FallbackToLogsOnError") {
            let log = self.node.folder.log(uid, name, attempt);
            return end_of(&log).map_or_else(|_| String::new(), |text| last_lines(&text));
        }
        String::from_utf8_lossy(cut).into_owned()
    }
}

/// The end of a file, with room for what a log line has beside its text.
fn end_of(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    let wanted = (LOG_BYTES + LOG_LINES * 48) as u64;
    file.seek(SeekFrom::Start(length.saturating_sub(wanted)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines of a log in the CRI's format, without time and stream.
fn last_lines(log: &str) -> String {
    let mut texts: Vec<String> = Vec::new();
    for line in log.lines() {
        let mut parts = line.splitn(4, ' ');
        let (Some(_), Some("stdout" | "stderr"), Some(tag), text) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let text = text.unwrap_or_default();
        let end = if tag == "P" { "" } else { "\n" };
        texts.push(format!("{text}{end}"));
    }
    let all = texts[texts.len().saturating_sub(LOG_LINES)..].concat();
    let mut from = all.len().saturating_sub(LOG_BYTES);
    while !all.is_char_boundary(from) {
        from += 1;
    }
    all[from..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_its_text() {
        let log = "cut off\n2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr P tw\n\
                   2026-01-01T00:00:01Z stderr F o\n2026-01-01T00:00:02Z stdout F\n";
        assert_eq!(last_lines(log), "one\ntwo\n\n");
        let line = |n: usize| format!("t stdout F line {n}\n");
        let long: String = (0..200).map(line).collect();
        assert_eq!(last_lines(&long).lines().count(), LOG_LINES);
        let wide = format!("t stdout F {}\n", "é".repeat(4000));
        assert!(last_lines(&wide).len() <= LOG_BYTES);
    }
}
