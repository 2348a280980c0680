//! The time, read in one place.

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// Seconds since the epoch.
pub(crate) fn seconds() -> i64 {
    jiff::Timestamp::now().as_second()
}
