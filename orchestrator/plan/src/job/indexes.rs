//! Sets of indexes as a Job's status writes them: `0-2,5`.

use std::collections::BTreeSet;

/// A set of indexes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Indexes(BTreeSet<i32>);

impl Indexes {
    /// Reads `1,3-5` as far as it is below `end`; what can't be read is left out.
    pub(crate) fn parse(text: &str, end: i32) -> Self {
        let ranges = text.split(',').filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse::<i32>().ok()?.min(end.saturating_sub(1)))
        });
        Self(ranges.flatten().collect())
    }

    pub(crate) fn insert(&mut self, index: i32) -> bool {
        self.0.insert(index)
    }

    pub(crate) fn contains(&self, index: i32) -> bool {
        self.0.contains(&index)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// How many of these are in `other`.
    pub(crate) fn common(&self, other: &Self) -> usize {
        self.0.intersection(&other.0).count()
    }
}

impl std::fmt::Display for Indexes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut ranges: Vec<(i32, i32)> = Vec::new();
        for &index in &self.0 {
            match ranges.last_mut() {
                Some(range) if range.1 + 1 == index => range.1 = index,
                _ => ranges.push((index, index)),
            }
        }
        for (place, (first, last)) in ranges.into_iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_as_they_are_written() {
        for text in ["", "0", "0-2", "1,3-5,7,8", "0,2"] {
            assert_eq!(Indexes::parse(text, 100).to_string(), text);
        }
        assert_eq!(Indexes::parse("0-9", 3).to_string(), "0-2");
        assert_eq!(Indexes::parse("x,4", 9).len(), 1);
    }
}
