//! Addresses that we connect to: whether their port can be meant, and what of them may be shown.

/// Whether the port is one, or none is given. The parser takes any text for a port and tells of none then, so that
/// the usual one would be used.
pub(super) fn has_sound_port(uri: &http::Uri) -> bool {
    let host_and_port = uri.authority().map_or("", |authority| authority.as_str()).rsplit('@').next();
    let port = host_and_port.and_then(|text| text.rsplit(']').next()?.rsplit_once(':'));
    port.is_none_or(|(_, port)| port.parse::<u16>().is_ok())
}

/// An address without `user:password@` and query.
pub(super) fn shown(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_query_are_not_shown() {
        assert_eq!(shown("http://u:p@h:1/a@b?token=t"), "http://h:1/a@b");
        assert_eq!(shown("https://h?token=t/x@y"), "https://h");
        assert_eq!(shown("h:1"), "http://h:1");
    }

    #[test]
    fn ports_are_numbers_up_to_65535() {
        for (url, expected) in [
            ("http://h", true),
            ("http://h:9091/x:y", true),
            ("http://u:p@h", true),
            ("http://[::1]", true),
            ("http://[::1]:9091", true),
            ("http://h:99999", false),
            ("http://user:pass/word@h:1", false),
            ("http://[::1]:x", false),
        ] {
            let sound = url.parse().is_ok_and(|uri: http::Uri| has_sound_port(&uri));
            assert_eq!(sound, expected, "{url}");
        }
    }
}
