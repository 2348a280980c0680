//! The formats that a schema may ask of texts and numbers.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::Value;

/// Whether a value has the format. One that is unknown asks for nothing.
pub(super) fn fits(format: &str, value: &Value) -> bool {
    match value {
        Value::String(text) => text_fits(format, text),
        Value::Number(number) => match format {
            "int32" => number
                .as_i64()
                .is_some_and(|whole| i32::try_from(whole).is_ok()),
            "int64" => number.is_i64() || number.as_f64().is_some_and(|float| float.fract() == 0.0),
            _ => true,
        },
        _ => true,
    }
}

fn text_fits(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => text.parse::<waggle_model::network::Cidr>().is_ok(),
        "uuid" | "uuid3" | "uuid4" | "uuid5" => uuid(text),
        "byte" => byte(text),
        "duration" => duration(text),
        "email" => {
            matches!(text.split_once('@'), Some((name, host)) if !name.is_empty() && !host.is_empty() && !text.contains(char::is_whitespace))
        }
        "hostname" => {
            let label =
                |label: &str| crate::validate::label_value(label).is_none() && !label.is_empty();
            text.len() <= 253 && text.trim_end_matches('.').split('.').all(label)
        }
        "uri" => matches!(text.split_once(':'), Some((scheme, rest)) if !rest.is_empty()
            && scheme.starts_with(|first: char| first.is_ascii_alphabetic())),
        "mac" => {
            let pair =
                |pair: &str| pair.len() == 2 && pair.bytes().all(|sign| sign.is_ascii_hexdigit());
            text.split([':', '-']).count() == 6 && text.split([':', '-']).all(pair)
        }
        _ => true,
    }
}

fn uuid(text: &str) -> bool {
    let lengths = text.split('-').map(str::len);
    lengths.eq([8, 4, 4, 4, 12])
        && text
            .bytes()
            .all(|sign| sign == b'-' || sign.is_ascii_hexdigit())
}

/// Base64.
fn byte(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    text.len().is_multiple_of(4)
        && text.len() - body.len() <= 2
        && body
            .bytes()
            .all(|sign| sign.is_ascii_alphanumeric() || matches!(sign, b'+' | b'/'))
}

/// `1h30m`, `250ms`, as Go writes durations.
fn duration(text: &str) -> bool {
    let mut rest = text.trim_start_matches(['+', '-']);
    if rest == "0" {
        return true;
    }
    let mut any = false;
    while !rest.is_empty() {
        let unit = rest.trim_start_matches(|sign: char| sign.is_ascii_digit() || sign == '.');
        let number = &rest[..rest.len() - unit.len()];
        let known = ["ns", "us", "µs", "ms", "s", "m", "h"];
        let length = unit
            .find(|sign: char| sign.is_ascii_digit() || sign == '.')
            .unwrap_or(unit.len());
        if number.parse::<f64>().is_err() || !known.contains(&&unit[..length]) {
            return false;
        }
        any = true;
        rest = &unit[length..];
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_take_what_they_name() {
        for (format, good, bad) in [
            ("date-time", "2026-01-02T03:04:05Z", "2026-01-02"),
            ("date", "2026-01-02", "02.01.2026"),
            ("ipv4", "10.0.0.1", "10.0.0"),
            ("ipv6", "fd00::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
            ("byte", "aGVsbG8=", "hello!"),
            ("duration", "1h30m", "1 hour"),
            ("duration", "1.5s", "1.5"),
            ("email", "a@b.example", "a.example"),
            ("hostname", "web.example", "-web"),
            ("uri", "https://example.com", "example"),
            ("mac", "00:11:22:33:44:ff", "00:11"),
        ] {
            assert!(text_fits(format, good), "{format} {good}");
            assert!(!text_fits(format, bad), "{format} {bad}");
        }
        assert!(fits("int32", &7.into()) && !fits("int32", &(1i64 << 40).into()));
    }
}
