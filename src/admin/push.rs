//! Pushes the counters to a Prometheus push gateway, now and then and once more at the end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::config::percent;
use crate::fields;
use crate::logging::Logger;
use crate::metrics::text::Exposition;

/// Longest time of one push.
const PUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a gateway's complaint that are read.
const COMPLAINT_BYTES_MAX: usize = 1000;

/// Where and how often.
#[derive(Debug, Clone)]
pub struct Push {
    /// Name of the sink, for messages.
    pub sink: String,
    /// Base address of the gateway, with scheme, without trailing slash.
    pub url: String,
    /// Job name.
    pub job: String,
    /// Label `instance`.
    pub instance: String,
    /// Time between pushes.
    pub interval: Duration,
}

/// Pushes until `end`, then once more.
pub(super) async fn run(push: Push, exposition: Arc<Exposition>, logger: Logger, end: CancellationToken) {
    let mut ended = false;
    while !ended {
        ended = tokio::time::timeout(push.interval, end.cancelled()).await.is_ok();
        let text = Bytes::from(exposition.text(&push.instance));
        let pushed = tokio::time::timeout(PUSH_TIMEOUT, push.once(text)).await;
        if let Err(error) =
            pushed.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {PUSH_TIMEOUT:?}")))
        {
            let fields = fields! {
                "sink" => push.sink, "gateway" => push.gateway(), "err" => format!("{error:#}"), "last" => ended
            };
            logger.warn("Failed to push metrics", fields);
        }
    }
}

impl Push {
    /// Where the gateway wants this job's metrics. A name with a slash is sent in base64.
    fn path(&self) -> String {
        if self.job.contains('/') || self.job.is_empty() {
            return format!("/metrics/job@base64/{}", URL_SAFE_NO_PAD.encode(&self.job));
        }
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
        let escaped: String = self
            .job
            .bytes()
            .map(|byte| if plain(&byte) { (byte as char).to_string() } else { format!("%{byte:02X}") })
            .collect();
        format!("/metrics/job/{escaped}")
    }

    /// The address for messages: without user and password.
    fn gateway(&self) -> String {
        let uri: Uri = self.url.parse().unwrap_or_default();
        let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80));
        format!("http://{host}:{port}{}", uri.path().trim_end_matches('/'))
    }

    fn request(&self, uri: &Uri, text: Bytes) -> anyhow::Result<Request<Full<Bytes>>> {
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let (user, host) =
            authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(uri.path())
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
        if let Some(user) = user {
            // compat: as Go's client does with an address that holds them.
            let user = if user.contains(':') { user.to_owned() } else { format!("{user}:") };
            request = request.header(
                header::AUTHORIZATION,
                format!("Basic {}", STANDARD.encode(percent::decode(user.as_bytes(), false))),
            );
        }
        Ok(request.body(Full::new(text))?)
    }

    async fn once(&self, text: Bytes) -> anyhow::Result<()> {
        let uri: Uri = format!("{}{}", self.url, self.path()).parse()?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await;
        let stream = stream.context("cannot connect; is the gateway up, and is the sink's url right?")?;
        let (mut client, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let answer = client.send_request(self.request(&uri, text)?).await?;
        let status = answer.status();
        if !matches!(status, StatusCode::OK | StatusCode::ACCEPTED) {
            let complaint =
                http_body_util::Limited::new(answer.into_body(), COMPLAINT_BYTES_MAX).collect().await;
            let complaint = complaint.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            anyhow::bail!("the gateway answered {status}: {}", String::from_utf8_lossy(&complaint).trim());
        }
        connection.abort();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(url: &str, job: &str) -> Push {
        let (sink, instance, interval) = (String::new(), String::new(), Duration::from_secs(1));
        Push { sink, url: url.to_owned(), job: job.to_owned(), instance, interval }
    }

    #[test]
    fn user_and_password_of_the_address_become_a_header_and_nothing_else() {
        let request = |url: &str| {
            let uri: Uri = url.parse().unwrap();
            push(url, "j").request(&uri, Bytes::new()).unwrap()
        };
        let plain = request("http://gateway:9091/prefix/metrics/job/j");
        assert_eq!((plain.uri().path(), plain.uri().host()), ("/prefix/metrics/job/j", None));
        assert_eq!(plain.headers()[header::HOST], "gateway:9091");
        assert!(!plain.headers().contains_key(header::AUTHORIZATION));
        let known = request("http://me:p%40ss%zz@gateway/metrics/job/j");
        assert_eq!(known.headers()[header::HOST], "gateway");
        let expected = format!("Basic {}", STANDARD.encode("me:p@ss%zz"));
        assert_eq!(known.headers()[header::AUTHORIZATION].to_str().unwrap(), expected);
        assert_eq!(known.uri().path(), "/metrics/job/j");
    }

    #[test]
    fn job_names_are_escaped_as_the_gateway_reads_them() {
        let path = |job: &str| push("", job).path();
        assert_eq!(path("jobs"), "/metrics/job/jobs");
        assert_eq!(path("a b"), "/metrics/job/a%20b");
        assert_eq!(path("team/jobs"), "/metrics/job@base64/dGVhbS9qb2Jz");
    }
}
