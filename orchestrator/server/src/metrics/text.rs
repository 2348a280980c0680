//! The text format of Prometheus, version 0.0.4.

use std::fmt::Write as _;

use waggle_wire::v1;

/// What kind of metric it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One metric with its samples.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Family {
    name: String,
    help: String,
    kind: Kind,
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    /// `_bucket`, `_sum`, `_count` of a histogram.
    suffix: &'static str,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Family {
    /// Without samples.
    pub(crate) fn new(name: &str, help: &str, kind: Kind) -> Self {
        Self {
            name: name.to_owned(),
            help: help.to_owned(),
            kind,
            samples: Vec::new(),
        }
    }

    /// Adds a sample.
    pub(crate) fn add(&mut self, labels: &[(&str, &str)], value: f64) {
        self.add_part("", labels, value);
    }

    /// Adds a sample of a part of a histogram.
    pub(super) fn add_part(&mut self, suffix: &'static str, labels: &[(&str, &str)], value: f64) {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.samples.push(Sample {
            suffix,
            labels: labels.iter().map(owned).collect(),
            value,
        });
    }

    /// With one sample more.
    pub(super) fn with(mut self, labels: &[(&str, &str)], value: f64) -> Self {
        self.add(labels, value);
        self
    }
}

impl From<v1::MetricFamily> for Family {
    fn from(told: v1::MetricFamily) -> Self {
        let sample = |sample: v1::MetricSample| Sample {
            suffix: "",
            labels: sample
                .labels
                .into_iter()
                .map(|label| (label.name, label.value))
                .collect(),
            value: sample.value,
        };
        Self {
            name: told.name,
            help: told.help,
            kind: if told.counter {
                Kind::Counter
            } else {
                Kind::Gauge
            },
            samples: told.samples.into_iter().map(sample).collect(),
        }
    }
}

/// Exact up to 2^53, which nothing here reaches.
#[expect(
    clippy::cast_precision_loss,
    reason = "samples of this format are floating-point numbers"
)]
pub(crate) fn number(value: u64) -> f64 {
    value as f64
}

/// The text of metrics. One without samples is left out.
pub(crate) fn render(families: &[Family]) -> String {
    let mut text = String::new();
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let name = &family.name;
        let help = escaped(&family.help, false);
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for sample in &family.samples {
            let _ = write!(text, "{name}{}", sample.suffix);
            for (index, (label, value)) in sample.labels.iter().enumerate() {
                let before = if index == 0 { '{' } else { ',' };
                let _ = write!(text, "{before}{label}=\"{}\"", escaped(value, true));
            }
            if !sample.labels.is_empty() {
                text.push('}');
            }
            let _ = writeln!(text, " {}", spelled(sample.value));
        }
    }
    text
}

fn escaped(text: &str, quotes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            letter => out.push(letter),
        }
    }
    out
}

fn spelled(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_written_as_prometheus_reads_them() {
        let families = [
            Family::new("a_total", "Back\\slash and\nline \"kept\".", Kind::Counter)
                .with(&[("path", "C:\\x \"y\"\nz"), ("b", "")], 3.0)
                .with(&[], 9_007_199_254_740_992.0),
            Family::new("empty", "Left out.", Kind::Gauge),
            Family::new("b", "B.", Kind::Gauge)
                .with(&[("v", "1")], 0.25)
                .with(&[("v", "2")], f64::INFINITY)
                .with(&[("v", "3")], f64::NAN)
                .with(&[("v", "4")], -1e-9),
        ];
        let expect = r#"# HELP a_total Back\\slash and\nline "kept".
# TYPE a_total counter
a_total{path="C:\\x \"y\"\nz",b=""} 3
a_total 9007199254740992
# HELP b B.
# TYPE b gauge
b{v="1"} 0.25
b{v="2"} +Inf
b{v="3"} NaN
b{v="4"} -0.000000001
"#;
        assert_eq!(render(&families), expect);
    }
}
