//! One request over one connection, and its answer. No TLS: this program carries none.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::sample::Sample;
use crate::config::percent;

/// Where a function is when nothing is said.
const DEFAULT_URL: &str = "http://localhost:8080";

/// What is the same for all requests of a run.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// Where all of them go.
    pub(super) url: Option<String>,
    /// In the place of those of a file.
    pub(super) headers: Vec<(String, String)>,
    /// From which level on logs are asked for.
    pub(super) log_level: Option<String>,
}

/// A request with where it goes.
#[derive(Debug)]
pub(super) struct Outgoing {
    host: String,
    port: u16,
    pub(super) request: Request<Full<Bytes>>,
}

/// Makes of a sample what is sent.
///
/// # Errors
/// Its address or a header cannot be used.
pub(super) fn prepare(sample: &Sample, settings: &Settings) -> Result<Outgoing, String> {
    let address = address(sample, settings.url.as_deref())?;
    let uri: Uri =
        escape(&address).parse().map_err(|error| format!("cannot use the address {address}: {error}"))?;
    if uri.scheme() == Some(&Scheme::HTTPS) {
        return Err(format!(
            "cannot use {address}: https is not supported, this program carries no TLS; use http://, or a client such as curl"
        ));
    }
    let authority = uri.authority().filter(|_| uri.scheme() == Some(&Scheme::HTTP));
    let Some(authority) = authority else {
        return Err(format!("cannot use the address {address}; write http://host:port/path"));
    };
    let (user, place) = match authority.as_str().rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, authority.as_str()),
    };
    let method = Method::from_bytes(sample.method().as_bytes())
        .map_err(|error| format!("method {:?}: {error}", sample.method()))?;
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let mut request =
        Request::builder().method(method).uri(target).body(Full::new(Bytes::from(sample.body.clone())));
    let request = request.as_mut().map_err(|error| format!("cannot send it: {error}"))?;
    let headers = request.headers_mut();
    for (name, value) in
        sample.headers.iter().filter(|(name, _)| !settings.replaces(name)).chain(&settings.headers)
    {
        let name =
            HeaderName::from_bytes(name.as_bytes()).map_err(|error| format!("header {name:?}: {error}"))?;
        let value = HeaderValue::from_str(value).map_err(|error| format!("header {name}: {error}"))?;
        // How the body is framed follows from the body.
        if name != header::CONTENT_LENGTH && name != header::TRANSFER_ENCODING && name != header::CONNECTION {
            headers.append(name, value);
        }
    }
    let mut default = |name: HeaderName, value: &str| {
        if let (Ok(value), false) = (HeaderValue::from_str(value), headers.contains_key(&name)) {
            headers.insert(name, value);
        }
    };
    default(header::HOST, place);
    default(header::USER_AGENT, concat!("processor-invoke/", env!("CARGO_PKG_VERSION")));
    default(header::ACCEPT, "*/*");
    default(header::CONNECTION, "close");
    if let Some(level) = &settings.log_level {
        default(HeaderName::from_static("x-nuclio-log-level"), level);
    }
    if let Some(user) = user {
        let user = percent::decode(user.as_bytes(), false);
        default(header::AUTHORIZATION, &format!("Basic {}", STANDARD.encode(user)));
    }
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = match place.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
        None | Some((_, "")) => 80,
        Some((_, port)) => {
            port.parse().map_err(|_| format!("cannot use the address {address}: {port} is no port"))?
        }
    };
    Ok(Outgoing { host, port, request: std::mem::take(request) })
}

impl Settings {
    fn replaces(&self, name: &str) -> bool {
        self.headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name))
    }
}

/// Where a sample goes: to `url` if there is one, with the sample's path behind its own.
fn address(sample: &Sample, url: Option<&str>) -> Result<String, String> {
    let (base, path) = match sample.target.split_once("://") {
        Some((scheme, rest)) => {
            let at = rest.find(['/', '?']).unwrap_or(rest.len());
            (format!("{scheme}://{}", &rest[..at]), &rest[at..])
        }
        // As editors do: a path alone goes to the host that is named.
        None => match sample.header("Host") {
            Some(host) => (format!("http://{host}"), sample.target.as_str()),
            None => (DEFAULT_URL.to_owned(), sample.target.as_str()),
        },
    };
    let base = match url {
        Some(url) if url.contains("://") => url.to_owned(),
        Some(url) => format!("http://{url}"),
        None => base,
    };
    if base.contains(['?', '#']) {
        return Err(format!("cannot use {base} as --url: it has a query; write that with the path"));
    }
    let path = path.split('#').next().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(format!("{}{slash}{path}", base.trim_end_matches('/')))
}

/// What people write as it is and no address may hold.
fn escape(address: &str) -> String {
    let mut out = String::with_capacity(address.len());
    for byte in address.bytes() {
        match byte {
            b'!'..=b'~' if !b"\"<>\\^`{|}".contains(&byte) => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// An answer whose body is still to come.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    connection: JoinHandle<hyper::Result<()>>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Sends a request and waits for the head of its answer.
///
/// # Errors
/// Why there is none.
pub(super) async fn send(outgoing: Outgoing, limit: Duration) -> Result<Answer, String> {
    let Outgoing { host, port, request } = outgoing;
    let exchange = async {
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|error| {
            format!("cannot connect to {host}:{port}: {error}; is the function running there? --url says where it is")
        })?;
        stream.set_nodelay(true).unwrap_or_default();
        let broken =
            |error: hyper::Error| format!("the connection to {host}:{port} broke: {}", causes(&error));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let connection = tokio::spawn(connection);
        match sender.send_request(request).await {
            Ok(response) => Ok(Answer { response, connection }),
            Err(error) => {
                connection.abort();
                Err(broken(error))
            }
        }
    };
    let too_long =
        |_| Err(format!("no answer from {host}:{port} within {limit:?}; --timeout gives it longer"));
    tokio::time::timeout(limit, exchange).await.unwrap_or_else(too_long)
}

/// An error with all that is behind it.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(target: &str, headers: &[(&str, &str)], url: Option<&str>) -> Result<Outgoing, String> {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let sample = Sample { target: target.to_owned(), headers, ..Sample::default() };
        prepare(&sample, &Settings { url: url.map(str::to_owned), ..Settings::default() })
    }

    #[test]
    fn a_request_goes_where_it_says_or_where_all_go() {
        for (target, host, url, expected) in [
            ("/p", None, None, "localhost:8080 localhost:8080 /p"),
            ("/p", Some("h:1"), None, "h:1 h:1 /p"),
            ("http://h/p?q=1#f", None, None, "h:80 h /p?q=1"),
            ("http://h?q=1", None, None, "h:80 h /?q=1"),
            ("http://h:2/p", None, Some("http://u:3/base/"), "u:3 u:3 /base/p"),
            ("/p", Some("h:1"), Some("u:3"), "u:3 h:1 /p"),
            ("/a b/ü{}", None, Some("http://[::1]:3"), "::1:3 [::1]:3 /a%20b/%C3%BC%7B%7D"),
        ] {
            let headers: Vec<_> = host.map(|host| ("Host", host)).into_iter().collect();
            let outgoing = sent(target, &headers, url).unwrap();
            let host = outgoing.request.headers()[header::HOST].to_str().unwrap();
            let shown = format!("{}:{} {host} {}", outgoing.host, outgoing.port, outgoing.request.uri());
            assert_eq!(shown, expected);
        }
    }

    #[test]
    fn addresses_that_cannot_be_used_are_refused_with_a_remedy() {
        for (target, url, expected) in [
            ("https://h/p", None, "https is not supported, this program carries no TLS; use http://"),
            ("/p", Some("https://h"), "https is not supported"),
            ("ftp://h/p", None, "write http://host:port/path"),
            ("http://h:99999/p", None, "cannot use the address"),
            ("/p", Some("http://h?x"), "it has a query"),
        ] {
            let error = sent(target, &[], url).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn framing_is_not_the_files_business_and_users_become_a_header() {
        let headers = [("Content-Length", "99"), ("Transfer-Encoding", "chunked"), ("X-A", "1")];
        let outgoing = sent("http://me:p%40ss@h/", &headers, None).unwrap();
        let got = outgoing.request.headers();
        assert!(!got.contains_key(header::CONTENT_LENGTH) && !got.contains_key(header::TRANSFER_ENCODING));
        assert!(got["x-a"] == "1" && got[header::HOST] == "h");
        let expected = format!("Basic {}", STANDARD.encode("me:p@ss"));
        assert_eq!(got[header::AUTHORIZATION].to_str().unwrap(), expected);
    }
}
