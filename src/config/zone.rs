//! The time zone of this machine, found without a look at all the others: whoever asks for it by its name has the whole
//! directory of zones read first, which takes longer than the rest of a start.

use std::path::Path;
use std::sync::OnceLock;

use jiff::tz::TimeZone;

use super::env::zone_name;

/// What says which zone it is.
const LOCAL: &str = "/etc/localtime";
/// Where the zones are.
const ZONES: &str = "/usr/share/zoneinfo";

/// The zone that log lines are written in.
pub fn local_zone() -> &'static TimeZone {
    static ZONE: OnceLock<TimeZone> = OnceLock::new();
    ZONE.get_or_init(|| file_of(zone_name().as_deref()).unwrap_or_else(TimeZone::system))
}

/// The zone of `TZ`, or of the machine without it; `None`: not a plain name, or no such file.
fn file_of(name: Option<&str>) -> Option<TimeZone> {
    let path = match name {
        None => Path::new(LOCAL).to_owned(),
        Some(name) if is_plain(name) => Path::new(ZONES).join(name),
        Some(_) => return None,
    };
    TimeZone::tzif(name.unwrap_or("local"), &std::fs::read(path).ok()?).ok()
}

/// `Europe/Berlin`: neither a path nor one of the forms that have rules in them.
fn is_plain(name: &str) -> bool {
    let parts_begin_with_letters =
        name.split('/').all(|part| part.starts_with(|first: char| first.is_ascii_alphabetic()));
    parts_begin_with_letters && !name.contains([',', '.', ':'])
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn the_zone_is_the_one_that_its_name_stands_for() {
        let local = file_of(None).unwrap_or_else(TimeZone::system);
        let times = [0, 1_735_822_446, 1_751_500_000].map(|seconds| Timestamp::from_second(seconds).unwrap());
        for time in times {
            if zone_name().is_none() {
                assert_eq!(local.to_offset(time), TimeZone::system().to_offset(time));
            }
            for name in ["Europe/Berlin", "America/Argentina/Ushuaia", "UTC", "EST5EDT"] {
                // Machines without files of zones have those that the program carries.
                let zone = file_of(Some(name)).unwrap_or_else(|| TimeZone::get(name).unwrap());
                assert_eq!(zone.to_offset(time), TimeZone::get(name).unwrap().to_offset(time), "{name}");
            }
        }
    }

    #[test]
    fn paths_rules_and_nothing_are_left_to_others() {
        for name in ["", "/etc/localtime", "../x", "EST5EDT,M3.2.0,M11.1.0", ":UTC", "Europe/../x"] {
            assert!(file_of(Some(name)).is_none(), "{name}");
        }
    }
}
