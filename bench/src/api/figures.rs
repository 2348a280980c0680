//! Quantiles of what was measured, and their print.

/// The sample below which `share` of the samples lie; 0 without samples.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "an index below the number of samples"
)]
pub(crate) fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let at = (last as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or_default()
}

/// Median, lowest and highest.
pub(crate) fn spread(samples: &[f64], digits: usize) -> String {
    let at = |share| quantile(samples, share);
    format!(
        "{:.digits$} [{:.digits$}, {:.digits$}]",
        at(0.5),
        at(0.0),
        at(1.0)
    )
}
