//! The probe of the images' health check: one GET, one exit code, nothing on success, one line on failure.
//!
//! It is built alone and statically, so that it runs from an empty image: standard library only, nothing else of
//! ours, no resolver, no files. It judges by the status (2xx), never follows a redirect, and ends itself before
//! the engine's own limit, because an engine that gives up kills the shell around the probe and not the probe.
//!
//! Start at `main`, then `probe`.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Images give the probe 3 s: it must be gone by then.
const TIMEOUT_DEFAULT: Duration = Duration::from_millis(2500);
/// Status line and headers, interim answers included.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How much of a strange status line is shown.
const SHOWN_BYTES_MAX: usize = 100;

const USAGE: &str = "Usage of uhttpc:
  -url string
    \tURL to request, http only; the host is an address or localhost
  -timeout duration
    \tlimit over connecting, writing and reading together (default 2.5s)
  -any-status
    \tany complete answer is a success, whatever its status
";

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(UsageError::Help) => return usage("", ExitCode::SUCCESS),
        Err(UsageError::Bad(message)) => return usage(&message, ExitCode::from(2)),
    };
    match probe(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // A closed stdout leaves the exit code as the whole answer.
            writeln!(io::stdout(), "{failure}").ok();
            ExitCode::FAILURE
        }
    }
}

fn usage(message: &str, code: ExitCode) -> ExitCode {
    let line_end = if message.is_empty() { "" } else { "\n" };
    write!(io::stderr(), "{message}{line_end}{USAGE}").ok();
    code
}

fn probe(options: &Options) -> Result<(), Failure> {
    let target = Target::parse(&options.url)?;
    let deadline = Deadline { at: Instant::now() + options.timeout, limit: options.timeout };
    let mut stream = target.connect(&deadline)?;
    send(&mut stream, target.request().as_bytes(), &deadline)?;
    let status = read_status(&mut stream, &deadline)?;
    if options.any_status || (200..300).contains(&status.code) {
        return Ok(());
    }
    Err(Failure(format!("{}: answered {status}", target.shown)))
}

/// Why the probe failed: one line without a byte that a terminal or a log could misread.
#[derive(Debug, PartialEq)]
struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// ---- arguments ----------------------------------------------------------------------------------------------

#[derive(Debug, PartialEq)]
struct Options {
    url: String,
    timeout: Duration,
    any_status: bool,
}

#[derive(Debug, PartialEq)]
enum UsageError {
    Help,
    Bad(String),
}

impl Options {
    /// Go's flag syntax: one dash or two, value after `=` or as the next argument, switches without a value.
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Self, UsageError> {
        let mut options = Self { url: String::new(), timeout: TIMEOUT_DEFAULT, any_status: false };
        // compat: the first argument that is no flag ends the flags; it and all after it are ignored.
        while let Some(argument) = arguments.next() {
            let argument = argument.to_string_lossy().into_owned();
            let Some(flag) = argument.strip_prefix('-').filter(|rest| !rest.is_empty()) else { break };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            if flag.is_empty() {
                break;
            }
            if flag.starts_with(['-', '=']) {
                return Err(UsageError::Bad(format!("bad flag syntax: {argument}")));
            }
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let mut needed = |value: Option<String>| {
                value
                    .or_else(|| arguments.next().map(|next| next.to_string_lossy().into_owned()))
                    .ok_or_else(|| UsageError::Bad(format!("flag needs an argument: -{name}")))
            };
            match name {
                "url" => options.url = needed(value)?,
                "timeout" => options.timeout = parse_timeout(&needed(value)?)?,
                "any-status" => options.any_status = parse_switch(value.as_deref())?,
                "h" | "help" => return Err(UsageError::Help),
                _ => return Err(UsageError::Bad(format!("flag provided but not defined: -{name}"))),
            }
        }
        Ok(options)
    }
}

fn parse_switch(value: Option<&str>) -> Result<bool, UsageError> {
    match value {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(value) => {
            Err(UsageError::Bad(format!("invalid boolean value {value:?} for -any-status: parse error")))
        }
    }
}

fn parse_timeout(text: &str) -> Result<Duration, UsageError> {
    match parse_duration(text) {
        Some(timeout) if !timeout.is_zero() => Ok(timeout),
        _ => Err(UsageError::Bad(format!(
            "invalid value {text:?} for flag -timeout: want a positive duration, such as 2.5s or 800ms"
        ))),
    }
}

/// Go's duration syntax without signs: `2.5s`, `1m30s`, `800ms`. At most a day, far past any use.
fn parse_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("μs", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    const SECONDS_MAX: f64 = 86_400.0;
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
        seconds += number.parse::<f64>().ok()? * scale;
        rest = after;
    }
    (!text.is_empty() && seconds <= SECONDS_MAX).then(|| Duration::from_secs_f64(seconds))
}

// ---- where to ask -------------------------------------------------------------------------------------------

#[derive(Debug, PartialEq)]
struct Target {
    /// The URL as it may be shown.
    shown: String,
    /// Host and port as written, for the `Host` header.
    authority: String,
    /// To be tried in this order.
    addresses: Vec<SocketAddr>,
    /// Path and query.
    path: String,
}

impl Target {
    fn parse(url: &str) -> Result<Self, Failure> {
        if url.is_empty() {
            return Err(Failure("URL must be set".into()));
        }
        if url.chars().any(char::is_control) {
            return Err(Failure("the URL has a control character in it".into()));
        }
        let rest = match url.split_once("://") {
            None => url,
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) => {
                return Err(Failure(format!("scheme {scheme:?} is not supported: use http://")));
            }
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(Failure("user names in the URL are not supported".into()));
        }
        Ok(Self {
            shown: format!("http://{}{}", escape_url(authority), escape_url(path)),
            authority: escape_url(authority),
            addresses: parse_authority(authority)?,
            path: format!("{}{}", if path.starts_with('/') { "" } else { "/" }, escape_url(path)),
        })
    }

    fn request(&self) -> String {
        format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: uhttpc\r\nAccept: */*\r\nConnection: close\r\n\r\n",
            self.path, self.authority
        )
    }

    /// Tries the addresses in turn; one that does not answer leaves time for those behind it.
    fn connect(&self, deadline: &Deadline) -> Result<TcpStream, Failure> {
        let mut errors = Vec::new();
        for (index, address) in self.addresses.iter().enumerate() {
            let left = (self.addresses.len() - index).try_into().unwrap_or(u32::MAX);
            match TcpStream::connect_timeout(address, deadline.remaining("connecting")? / left) {
                Ok(stream) => return Ok(stream),
                Err(error) => errors.push(format!("failed to connect to {address}: {}", plain(&error))),
            }
        }
        Err(Failure(errors.join("; ")))
    }
}

fn parse_authority(authority: &str) -> Result<Vec<SocketAddr>, Failure> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            rest.split_once(']').ok_or_else(|| Failure(format!("missing ']' in host {authority:?}")))?
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => 80,
        Some("") => 80,
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            port.parse().map_err(|_| Failure(format!("port {port:?} is not in 1 to 65535")))?
        }
        _ => return Err(Failure(format!("invalid port in host {authority:?}"))),
    };
    // compat: a port alone means this machine.
    if host.eq_ignore_ascii_case("localhost") || (host.is_empty() && authority.starts_with(':')) {
        let loopback = [IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)];
        return Ok(loopback.map(|ip| SocketAddr::new(ip, port)).to_vec());
    }
    let ip = if authority.starts_with('[') {
        host.parse::<Ipv6Addr>().map(IpAddr::V6)
    } else {
        host.parse::<Ipv4Addr>().map(IpAddr::V4)
    };
    match ip {
        Ok(ip) => Ok(vec![SocketAddr::new(ip, port)]),
        Err(_) if host.is_empty() => Err(Failure("no host in the URL".into())),
        Err(_) => Err(Failure(format!(
            "host {host:?} is a name: only localhost and addresses (127.0.0.1, [::1]) can be probed"
        ))),
    }
}

/// Percent-encodes whatever may not stand in a request line.
fn escape_url(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        if byte.is_ascii_graphic() {
            escaped.push(byte.into());
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
        escaped
    })
}

// ---- the exchange -------------------------------------------------------------------------------------------

/// One limit over everything, however many bytes trickle in meanwhile.
struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    fn remaining(&self, doing: &str) -> Result<Duration, Failure> {
        let remaining = self.at.saturating_duration_since(Instant::now());
        if remaining.is_zero() { Err(self.passed(doing)) } else { Ok(remaining) }
    }

    fn passed(&self, doing: &str) -> Failure {
        Failure(format!("no answer within {:?} (while {doing})", self.limit))
    }
}

fn send(stream: &mut TcpStream, mut request: &[u8], deadline: &Deadline) -> Result<(), Failure> {
    const DOING: &str = "sending the request";
    while !request.is_empty() {
        let remaining = deadline.remaining(DOING)?;
        match stream.set_write_timeout(Some(remaining)).and_then(|()| stream.write(request)) {
            Ok(written) => request = &request[written..],
            Err(error) if is_early(&error) => {}
            // A server that refuses at once may have answered and closed already: what it said decides.
            Err(error) if is_closed(&error) => return Ok(()),
            Err(error) => return Err(Failure(format!("failed while {DOING}: {}", plain(&error)))),
        }
    }
    Ok(())
}

/// Reads up to the end of the head, so that a server still writing it meets no reset. A server may close any time
/// after the status line.
fn read_status(stream: &mut impl ReadWithin, deadline: &Deadline) -> Result<Status, Failure> {
    const DOING: &str = "reading the answer";
    let mut head = Vec::with_capacity(1024);
    let mut chunk = [0; 1024];
    loop {
        match parse_head(&head)? {
            Head::Complete(status) => return Ok(status),
            _ if head.len() >= HEAD_BYTES_MAX => {
                return Err(Failure(format!("answer head is larger than {HEAD_BYTES_MAX} bytes")));
            }
            Head::Partial(known) => {
                let remaining = deadline.remaining(DOING)?;
                match stream.read_within(&mut chunk, remaining) {
                    Ok(0) => return known.ok_or_else(|| closed_early(&head)),
                    Ok(count) => head.extend_from_slice(&chunk[..count]),
                    Err(error) if is_early(&error) => {}
                    Err(error) if is_closed(&error) => return known.ok_or_else(|| closed_early(&head)),
                    Err(error) => return Err(Failure(format!("failed while {DOING}: {}", plain(&error)))),
                }
            }
        }
    }
}

/// The one thing asked of a connection while reading; tests put a script in its place.
trait ReadWithin {
    fn read_within(&mut self, buffer: &mut [u8], limit: Duration) -> io::Result<usize>;
}

impl ReadWithin for TcpStream {
    fn read_within(&mut self, buffer: &mut [u8], limit: Duration) -> io::Result<usize> {
        self.set_read_timeout(Some(limit))?;
        self.read(buffer)
    }
}

fn closed_early(head: &[u8]) -> Failure {
    if head.is_empty() {
        return Failure("the server closed the connection without an answer".into());
    }
    Failure(format!("the server closed the connection after \"{}\"", shown(head)))
}

/// The wait was cut short: whether time is left is the deadline's to say.
fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// The kernel's text without the number that the standard library adds.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

// ---- the answer ---------------------------------------------------------------------------------------------

#[derive(Debug, PartialEq)]
struct Status {
    code: u16,
    /// As received, without the line end.
    reason: Vec<u8>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = shown(&self.reason);
        write!(f, "{:03}{}{reason}", self.code, if reason.is_empty() { "" } else { " " })
    }
}

#[derive(Debug, PartialEq)]
enum Head {
    /// More is to come; the status, if its line is complete.
    Partial(Option<Status>),
    Complete(Status),
}

/// Looks for the first final status in what has arrived; interim answers (1xx) before it are passed over.
fn parse_head(bytes: &[u8]) -> Result<Head, Failure> {
    let mut lines = Lines(bytes);
    loop {
        let Some(line) = lines.next() else {
            // Garbage without a line end is told at once rather than at the deadline.
            return if is_prefix_of_status(lines.0) {
                Ok(Head::Partial(None))
            } else {
                Err(no_http(lines.0))
            };
        };
        let status = parse_status_line(line).ok_or_else(|| no_http(line))?;
        let is_interim = (100..200).contains(&status.code) && status.code != 101;
        if lines.by_ref().any(<[u8]>::is_empty) {
            if !is_interim {
                return Ok(Head::Complete(status));
            }
        } else {
            return Ok(Head::Partial((!is_interim).then_some(status)));
        }
    }
}

/// Complete lines without their ends; what is left over stays in the field.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        let line = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

/// `HTTP/d.d ddd[ reason]`
fn parse_status_line(line: &[u8]) -> Option<Status> {
    let (version, rest) = line.strip_prefix(b"HTTP/")?.split_at_checked(3)?;
    let is_version =
        matches!(version, [major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit());
    let (code, reason) = rest.strip_prefix(b" ")?.split_at_checked(3)?;
    if !is_version || !code.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let code = code.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    let reason = match reason {
        [] => reason,
        _ => reason.strip_prefix(b" ")?,
    };
    (code >= 100).then(|| Status { code, reason: reason.to_vec() })
}

fn is_prefix_of_status(bytes: &[u8]) -> bool {
    let known = bytes.len().min(b"HTTP/".len());
    bytes[..known] == b"HTTP/"[..known]
}

fn no_http(line: &[u8]) -> Failure {
    Failure(format!("the answer is not HTTP: \"{}\"", shown(line)))
}

fn shown(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
    format!("{}{}", cut.escape_ascii(), if cut.len() < bytes.len() { "…" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Result<Options, UsageError> {
        Options::parse(arguments.iter().map(OsString::from))
    }

    fn with_url(url: &str) -> Options {
        Options { url: url.into(), timeout: TIMEOUT_DEFAULT, any_status: false }
    }

    #[test]
    fn flags_are_accepted_in_every_form_of_go() {
        for form in
            [&["-url", "x"][..], &["--url", "x"], &["-url=x"], &["--url=x"], &["--url=x", "--", "-no"]]
        {
            assert_eq!(options(form), Ok(with_url("x")), "{form:?}");
        }
        assert_eq!(options(&["--url=a=b"]), Ok(with_url("a=b")));
        assert_eq!(options(&["rest", "--url", "x"]), Ok(with_url("")), "flags end at the first other word");
        assert!(options(&["-any-status"]).unwrap().any_status);
        assert!(!options(&["-any-status=false"]).unwrap().any_status);
        assert_eq!(options(&["--timeout", "1m0.5s"]).unwrap().timeout, Duration::from_millis(60_500));
    }

    #[test]
    fn bad_flags_are_told_apart_from_help() {
        let cases = [
            (&["-x"][..], "flag provided but not defined: -x"),
            (&["--x=1"], "flag provided but not defined: -x"),
            (&["---url"], "bad flag syntax: ---url"),
            (&["-=x"], "bad flag syntax: -=x"),
            (&["--url"], "flag needs an argument: -url"),
            (&["-any-status=maybe"], "invalid boolean value \"maybe\" for -any-status: parse error"),
        ];
        for (arguments, message) in cases {
            assert_eq!(options(arguments), Err(UsageError::Bad(message.into())), "{arguments:?}");
        }
        for help in ["-h", "-help", "--help", "--h"] {
            assert_eq!(options(&[help]), Err(UsageError::Help));
        }
    }

    #[test]
    fn durations_follow_gos_syntax() {
        let cases = [
            ("2.5s", Some(2500)),
            ("800ms", Some(800)),
            ("1m30s", Some(90_000)),
            ("1h", Some(3_600_000)),
            (".5s", Some(500)),
            ("1500000us", Some(1500)),
            ("1000µs", Some(1)),
            ("5", None),
            ("s", None),
            ("", None),
            ("-1s", None),
            ("1.2.3s", None),
            ("1d", None),
            ("999999999h", None),
        ];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text), millis.map(Duration::from_millis), "{text:?}");
        }
        assert!(parse_timeout("0s").is_err());
    }

    #[test]
    fn urls_become_addresses_without_a_resolver() {
        let cases = [
            ("http://127.0.0.1:8082/ready", "[127.0.0.1:8082]", "/ready"),
            ("HTTP://127.0.0.1", "[127.0.0.1:80]", "/"),
            ("127.0.0.1:8082/ready?full=1#top", "[127.0.0.1:8082]", "/ready?full=1"),
            ("http://127.0.0.1:1?q", "[127.0.0.1:1]", "/?q"),
            ("[::1]:8082/a b", "[[::1]:8082]", "/a%20b"),
            ("http://localhost:8082/ü", "[[::1]:8082, 127.0.0.1:8082]", "/%C3%BC"),
            (":8082/ready", "[[::1]:8082, 127.0.0.1:8082]", "/ready"),
        ];
        for (url, addresses, path) in cases {
            let target = Target::parse(url).unwrap_or_else(|failure| panic!("{url}: {failure}"));
            assert_eq!((format!("{:?}", target.addresses).as_str(), target.path.as_str()), (addresses, path));
        }
    }

    #[test]
    fn urls_that_cannot_be_asked_are_refused_with_the_reason() {
        let cases = [
            ("", "URL must be set"),
            ("https://127.0.0.1/", "scheme \"https\" is not supported: use http://"),
            ("http://a:b@127.0.0.1/", "user names in the URL are not supported"),
            ("http://127.0.0.1/\r\nX: y", "the URL has a control character in it"),
            ("http:///ready", "no host in the URL"),
            ("http://127.0.0.1:99999/", "port \"99999\" is not in 1 to 65535"),
            ("http://127.0.0.1:x/", "invalid port in host \"127.0.0.1:x\""),
            ("http://[::1/", "missing ']' in host \"[::1\""),
            ("http://[::1]x/", "invalid port in host \"[::1]x\""),
            (
                "http://example/",
                "host \"example\" is a name: only localhost and addresses (127.0.0.1, [::1]) can be probed",
            ),
        ];
        for (url, message) in cases {
            assert_eq!(Target::parse(url), Err(Failure(message.into())), "{url:?}");
        }
    }

    #[test]
    fn the_status_line_decides() {
        let status = |code, reason: &str| Status { code, reason: reason.into() };
        let complete = |code, reason| Ok(Head::Complete(status(code, reason)));
        let partial = |known| Ok(Head::Partial(known));
        let cases: [(&[u8], Result<Head, Failure>); 11] = [
            (b"", partial(None)),
            (b"HTT", partial(None)),
            (b"HTTP/1.1 200 OK\r", partial(None)),
            (b"HTTP/1.1 200 OK\r\n", partial(Some(status(200, "OK")))),
            (b"HTTP/1.1 200 OK\r\nA: b\r\n\r", partial(Some(status(200, "OK")))),
            (b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody", complete(200, "OK")),
            (b"HTTP/1.0 503\n\n", complete(503, "")),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", complete(204, "No Content")),
            (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", partial(None)),
            (b"SSH-2.0-x\r\n", Err(no_http(b"SSH-2.0-x"))),
            (b"\x00\x1b[2J", Err(no_http(b"\x00\x1b[2J"))),
        ];
        for (bytes, expected) in cases {
            assert_eq!(parse_head(bytes), expected, "{}", bytes.escape_ascii());
        }
        for line in
            [&b"HTTP/1.1 20 OK"[..], b"HTTP/1.1 2000", b"HTTP/1 200 OK", b"HTTP/1.1  200", b"HTTP/1.1 099 X"]
        {
            assert_eq!(parse_status_line(line), None, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn nothing_received_is_shown_unescaped_or_at_length() {
        let status = Status { code: 500, reason: b"\x1b[31mno\r\n\xff".to_vec() };
        assert_eq!(status.to_string(), "500 \\x1b[31mno\\r\\n\\xff");
        assert_eq!(shown(&[b'a'; 200]), format!("{}…", "a".repeat(SHOWN_BYTES_MAX)));
    }

    /// Answers reads from a list; past its end it repeats `X-More: 1` lines for ever.
    struct Script(Vec<io::Result<&'static [u8]>>);

    impl ReadWithin for Script {
        fn read_within(&mut self, buffer: &mut [u8], _limit: Duration) -> io::Result<usize> {
            let bytes = if self.0.is_empty() { Ok(&b"X-More: 1\r\n"[..]) } else { self.0.remove(0) }?;
            buffer[..bytes.len()].copy_from_slice(bytes);
            Ok(bytes.len())
        }
    }

    fn read_script(script: Vec<io::Result<&'static [u8]>>) -> Result<u16, String> {
        let deadline =
            Deadline { at: Instant::now() + Duration::from_secs(60), limit: Duration::from_secs(60) };
        let outcome = read_status(&mut Script(script), &deadline);
        outcome.map(|status| status.code).map_err(|failure| failure.0)
    }

    #[test]
    fn a_server_may_close_after_the_status_line() {
        let reset = || Err(io::ErrorKind::ConnectionReset.into());
        let cut = || Err(io::ErrorKind::Interrupted.into());
        assert_eq!(read_script(vec![Ok(b"HTTP/1.1 200 OK\r\n"), Ok(b"")]), Ok(200));
        assert_eq!(read_script(vec![Ok(b"HTTP/1.1 200 OK\r\nA"), reset()]), Ok(200));
        assert_eq!(read_script(vec![cut(), Ok(b"HTTP/1.1 "), cut(), Ok(b"503 No\r\n\r\n")]), Ok(503));
        let early = read_script(vec![Ok(b"HTTP/1.1 200"), Ok(b"")]);
        assert_eq!(early, Err("the server closed the connection after \"HTTP/1.1 200\"".into()));
        assert_eq!(
            read_script(vec![reset()]),
            Err("the server closed the connection without an answer".into())
        );
    }

    #[test]
    fn a_head_without_end_is_given_up() {
        let endless = read_script(vec![Ok(b"HTTP/1.1 200 OK\r\n")]);
        assert_eq!(endless, Err("answer head is larger than 16384 bytes".into()));
    }
}
