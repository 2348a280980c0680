//! The line format of container logs, as the kubelet's container runtime interface has it:
//! `2026-01-02T03:04:05.123456789Z stdout F text`. Writing and reading files: `supervisor::logs` and `logs`.

use serde::{Deserialize, Serialize};

/// Lines longer than this are written in parts, bytes.
pub(crate) const MAX_LINE: usize = 16 << 10;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Appends one line. `full` is false for a part that the next line continues.
pub(crate) fn write_line(out: &mut Vec<u8>, stamp: &str, stream: Stream, full: bool, text: &[u8]) {
    out.extend_from_slice(stamp.as_bytes());
    out.push(b' ');
    out.extend_from_slice(stream.name().as_bytes());
    out.extend_from_slice(if full { b" F " } else { b" P " });
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// The time now, as the format has it: UTC, always nine digits of a second.
pub(crate) fn stamp() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}

/// A line taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub(crate) stamp: &'a str,
    pub(crate) full: bool,
    pub(crate) text: &'a [u8],
}

/// Parses a line without its newline; `None` when it is none of ours (torn by a full disk).
pub(crate) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let stamp = std::str::from_utf8(parts.next()?).ok()?;
    let _stream = parts.next()?;
    let full = match parts.next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Line {
        stamp,
        full,
        text: parts.next()?,
    })
}

/// Cuts what a container writes into lines.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    pending: Vec<u8>,
}

impl Splitter {
    /// Takes what was read; calls `emit(full, text)` for each line and each part of a long one.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(bool, &[u8])) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.pending.is_empty() && line.len() <= MAX_LINE {
                emit(true, line);
            } else {
                self.pending.extend_from_slice(line);
                self.parts(&mut emit);
                emit(true, &self.pending);
                self.pending.clear();
            }
            bytes = rest;
        }
        self.pending.extend_from_slice(bytes);
        self.parts(&mut emit);
    }

    /// What is left when the stream ends is a part without an end.
    pub(crate) fn finish(&mut self, mut emit: impl FnMut(bool, &[u8])) {
        if !self.pending.is_empty() {
            emit(false, &std::mem::take(&mut self.pending));
        }
    }

    fn parts(&mut self, emit: &mut impl FnMut(bool, &[u8])) {
        while self.pending.len() > MAX_LINE {
            emit(false, &self.pending[..MAX_LINE]);
            self.pending.drain(..MAX_LINE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_written_and_read_back() {
        let mut out = Vec::new();
        write_line(
            &mut out,
            "2026-01-02T03:04:05.000000001Z",
            Stream::Stderr,
            true,
            b"a b  c",
        );
        assert_eq!(out, b"2026-01-02T03:04:05.000000001Z stderr F a b  c\n");
        let line = parse(&out[..out.len() - 1]).unwrap();
        assert_eq!(
            line,
            Line {
                stamp: "2026-01-02T03:04:05.000000001Z",
                full: true,
                text: b"a b  c"
            }
        );
        assert!(parse(b"garbage").is_none());
        assert_eq!(parse(b"t stdout P ").unwrap().text, b"");
    }

    #[test]
    fn a_stamp_always_has_nine_digits() {
        let stamp = stamp();
        assert_eq!(
            stamp.len(),
            "2026-01-02T03:04:05.123456789Z".len(),
            "{stamp}"
        );
    }

    proptest! {
        #[test]
        fn splitting_loses_nothing(
            runs in prop::collection::vec(prop::collection::vec((prop_oneof![Just(b'\n'), any::<u8>()], 1..9_000_usize), 0..5), 0..5)
        ) {
            let chunks: Vec<Vec<u8>> =
                runs.iter().map(|chunk| chunk.iter().flat_map(|(byte, n)| vec![*byte; *n]).collect()).collect();
            let mut splitter = Splitter::default();
            let mut back = Vec::new();
            let mut longest = 0;
            let mut emit = |full: bool, text: &[u8]| {
                longest = longest.max(text.len());
                back.extend_from_slice(text);
                if full { back.push(b'\n'); }
            };
            for chunk in &chunks {
                splitter.push(chunk, &mut emit);
            }
            splitter.finish(&mut emit);
            prop_assert_eq!(back, chunks.concat());
            prop_assert!(longest <= MAX_LINE);
        }
    }
}
