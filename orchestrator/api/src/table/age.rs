//! Durations as kubectl prints them: `45s`, `3m20s`, `5h`, `2d3h`, `400d`.

use jiff::Timestamp;

/// Time from `moment` (RFC 3339) to `now` (seconds since the epoch); `<unknown>` when there is no such moment.
pub fn since(moment: &str, now: i64) -> String {
    match moment.parse::<Timestamp>() {
        Ok(moment) => duration(now - moment.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// `seconds` for people: two units while the larger one is small, one unit otherwise.
pub fn duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    if seconds < 0 {
        return "0s".to_owned();
    }
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => pair(days, 'd', hours % 24, 'h'),
        _ if days < 730 => format!("{days}d"),
        _ if days < 365 * 8 => pair(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

fn pair(large: i64, large_unit: char, small: i64, small_unit: char) -> String {
    if small == 0 {
        format!("{large}{large_unit}")
    } else {
        format!("{large}{large_unit}{small}{small_unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_prints_them() {
        for (seconds, expect) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (599, "9m59s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (12_000, "3h20m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (86_400 * 729, "729d"),
            (86_400 * 731, "2y1d"),
            (86_400 * 365 * 9, "9y"),
        ] {
            assert_eq!(duration(seconds), expect, "{seconds}");
        }
        assert_eq!(since("1970-01-01T00:01:00Z", 90), "30s");
        assert_eq!(since("", 90), "<unknown>");
    }
}
