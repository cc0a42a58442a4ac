//! Times of day as text.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A time of day where the machine is: `2026-11-21 09:30:00 CET`, as PgBouncer shows times.
pub fn local_time(time: SystemTime) -> String {
    in_zone(time, &TimeZone::system())
}

fn in_zone(time: SystemTime, zone: &TimeZone) -> String {
    let timestamp = Timestamp::try_from(time).unwrap_or(Timestamp::MAX);
    timestamp.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_is_shown_with_its_zone() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(in_zone(time, &TimeZone::UTC), "2023-11-14 22:13:20 UTC");
    }

    #[test]
    fn a_time_beyond_the_calendar_is_no_panic() {
        assert!(local_time(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 60)).starts_with("9999"));
    }
}
