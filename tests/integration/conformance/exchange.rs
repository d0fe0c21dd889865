//! Sends what a vector says and notes everything that comes back. Judges nothing.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Answer, Client, Ports};

/// What a request may say.
const KEYS: &[&str] =
    &["method", "path", "headers", "body", "raw", "concurrent", "repeat", "same_connection", "port"];

/// Longest wait for an answer: all vectors have theirs within three seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Everything seen of one request.
#[derive(Debug)]
pub struct Reply {
    /// Or how the connection ended without one.
    pub answer: std::io::Result<Answer>,
    pub elapsed: Duration,
    /// The body that was sent.
    pub sent: Vec<u8>,
    /// What became of the connection; not looked at where more was to come on it.
    pub after: Option<After>,
}

/// What the server makes of one more request on the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    KeptAlive,
    Closed,
    /// Neither: bytes that are no answer, or a wrong one.
    Odd(String),
}

/// Everything seen of one step.
#[derive(Debug)]
pub struct Observed {
    pub replies: Vec<Reply>,
    /// Until the last of them.
    pub total: Duration,
}

/// Sends the request as often as it says. `answers`: so many are expected on the one connection.
pub fn exchange(request: &Value, ports: Ports, answers: usize) -> Observed {
    for key in request.as_object().unwrap().keys() {
        assert!(KEYS.contains(&key.as_str()), "unknown key {key} of a request");
    }
    let address = address(request, ports);
    let start = Instant::now();
    let count = |key: &str| request[key].as_u64().unwrap_or(1) as usize;
    let replies = if count("concurrent") > 1 {
        std::thread::scope(|scope| {
            let one = |number| scope.spawn(move || on_own_connection(request, address, number, 1));
            let threads: Vec<_> = (0..count("concurrent")).map(one).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        })
    } else if request["same_connection"] == true {
        let mut client = connect(address);
        (1..=count("repeat"))
            .map(|number| one(&mut client, request, number, number == count("repeat")))
            .collect()
    } else {
        (0..count("repeat")).flat_map(|number| on_own_connection(request, address, number, answers)).collect()
    };
    Observed { replies, total: start.elapsed() }
}

fn address(request: &Value, ports: Ports) -> SocketAddr {
    let port = match request["port"].as_u64() {
        None => ports.http,
        Some(8081) => ports.admin,
        Some(8082) => ports.health,
        Some(8090) => ports.metrics,
        Some(other) => panic!("unknown port {other}"),
    };
    ([127, 0, 0, 1], port).into()
}

/// A client that does not wait as long as others.
fn connect(address: SocketAddr) -> Client {
    let client = Client::connect(address);
    client.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

fn on_own_connection(request: &Value, address: SocketAddr, number: usize, answers: usize) -> Vec<Reply> {
    let mut client = connect(address);
    let mut replies = vec![one(&mut client, request, number, answers == 1)];
    for left in (1..answers).rev() {
        let start = Instant::now();
        let answer = client.read_answer(false);
        let elapsed = start.elapsed();
        replies.push(Reply {
            answer,
            elapsed,
            sent: Vec::new(),
            after: (left == 1).then(|| after(&mut client)),
        });
    }
    replies
}

fn one(client: &mut Client, request: &Value, number: usize, last: bool) -> Reply {
    let (bytes, sent) = bytes(request, number);
    let start = Instant::now();
    client.send(&bytes);
    let answer = client.read_answer(bytes.starts_with(b"HEAD "));
    let elapsed = start.elapsed();
    let after = last.then(|| if answer.is_ok() { after(client) } else { After::Closed });
    Reply { answer, elapsed, sent, after }
}

/// The bytes of the request, and its body.
pub fn bytes(request: &Value, number: usize) -> (Vec<u8>, Vec<u8>) {
    if let Some(raw) = request["raw"].as_str() {
        // One byte per character.
        return (raw.chars().map(|char| u8::try_from(u32::from(char)).unwrap()).collect(), Vec::new());
    }
    let body = request["body"].as_str().map(|body| body.replace("{n}", &number.to_string()).into_bytes());
    let mut head =
        format!("{} {} HTTP/1.1\r\n", request["method"].as_str().unwrap(), request["path"].as_str().unwrap());
    let headers: Vec<[String; 2]> = serde_json::from_value(request["headers"].clone()).unwrap();
    if !headers.iter().any(|[name, _]| name.eq_ignore_ascii_case("host")) {
        head += "Host: conformance\r\n";
    }
    for [name, value] in &headers {
        head += &format!("{name}: {value}\r\n");
    }
    if let Some(body) = &body {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    head += "\r\n";
    let body = body.unwrap_or_default();
    ([head.as_bytes(), &body].concat(), body)
}

/// Finds out by using the connection once more.
pub fn after(client: &mut Client) -> After {
    client.send(b"GET /__internal/health HTTP/1.1\r\nHost: conformance\r\n\r\n");
    let probe = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.read_answer(false)));
    match probe {
        // The side servers do not know the path, which is an answer as well.
        Ok(Ok(answer)) if matches!(answer.status, 200 | 404) => After::KeptAlive,
        Ok(Ok(answer)) => After::Odd(format!("the next request got {answer:?}")),
        Ok(Err(error)) if timed_out(&error) => After::Odd("neither answer nor end".to_owned()),
        Ok(Err(_)) => After::Closed,
        Err(_) => After::Odd("what came was no answer".to_owned()),
    }
}

/// Whether the server neither answered nor closed.
pub fn timed_out(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

/// Whether new connections are served.
pub fn serves(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port))
        .is_ok_and(|stream| after(&mut Client::over(stream)) == After::KeptAlive)
}
