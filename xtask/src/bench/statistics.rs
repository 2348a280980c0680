//! Medians and spreads of repeated measurements.

use std::fmt;

/// Median with the lowest and highest of several rounds, or quartiles of many samples.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    /// Lower end.
    pub(crate) low: f64,
    /// Median.
    pub(crate) median: f64,
    /// Upper end.
    pub(crate) high: f64,
}

impl Spread {
    /// Of a few rounds: lowest and highest. `None` without samples.
    pub(crate) fn of_rounds(samples: &[f64]) -> Option<Self> {
        Self::between(samples, 0.0, 1.0)
    }

    /// Between two quantiles. `None` without samples.
    pub(crate) fn between(samples: &[f64], low: f64, high: f64) -> Option<Self> {
        Some(Self {
            low: quantile(samples, low)?,
            median: quantile(samples, 0.5)?,
            high: quantile(samples, high)?,
        })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(
            f,
            "{:.digits$} [{:.digits$}, {:.digits$}]",
            self.median, self.low, self.high
        )
    }
}

/// The sample below which `share` of the samples lie. `None` without samples.
pub(crate) fn quantile(samples: &[f64], share: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
        .get((sorted.len().checked_sub(1)? as f64 * share).round() as usize)
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few_samples() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5), Some(2.0));
        let spread = Spread::of_rounds(&[3.0, 1.0, 2.0]);
        assert_eq!(
            spread.map(|spread| format!("{spread:.1}")),
            Some("2.0 [1.0, 3.0]".to_owned())
        );
    }
}
