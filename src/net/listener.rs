//! Accepts connections, watches over them, closes them all.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};

use super::connection::{self, Activity, Service};
use super::stream::{Door, Listener, Stream};
use crate::fields;
use crate::logging::Logger;
use crate::shutdown::Shutdown;
use crate::turns::{give_way, own};

/// How often slow clients are looked for.
const TICK: Duration = Duration::from_secs(1);
/// Connections accepted, or other things done, in one turn.
const TURN: u64 = 64;
/// After a failed accept (no descriptors left), others get a chance to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// How often at most a failing accept is reported.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(60);
/// What a connection too many gets.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 73\r\n\
    Connection: close\r\n\r\nThe connection cannot be served because Server.Concurrency limit exceeded";

/// What a client may ask of us.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of request line and headers with the empty line.
    pub head_bytes_max: usize,
    /// Time for a head, and longest time without a byte of a body. A client that takes nothing of an answer has up to
    /// twice that: what it has taken is looked at only so often.
    pub stall: Duration,
    /// Connections at once.
    pub connections_max: usize,
}

/// Says that it is one too many, as far as the kernel takes it at once.
fn refuse(stream: &Stream) {
    // What is left unread would reset the connection before the answer arrives.
    stream.try_read(&mut [0; 4096]).unwrap_or_default();
    stream.try_write(TOO_MANY).unwrap_or_default();
}

/// What all connections of a server share.
pub(super) struct Shared {
    pub(super) builder: http1::Builder,
    connections: Mutex<Slab<Arc<Activity>>>,
    clock: Arc<AtomicU32>,
    limits: Limits,
    /// How long idle connections are kept for one more request when the server closes.
    pub(super) last_call: Duration,
    left: Notify,
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Slab<Arc<Activity>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bound address and the service behind it.
pub struct Server<S> {
    door: Door,
    service: S,
    shared: Arc<Shared>,
    logger: Logger,
    keeps_ends: bool,
    complained: Option<Instant>,
}

impl<S: Service> Server<S> {
    /// Serves `listener` on the current runtime once [`Server::run`] is polled.
    ///
    /// # Errors
    /// The listener cannot be registered.
    pub fn new(listener: Listener, limits: Limits, logger: Logger, service: S) -> io::Result<Self> {
        let mut builder = http1::Builder::new();
        builder.title_case_headers(true).max_header_size(limits.head_bytes_max).header_read_timeout(None);
        builder.half_close(true); // Whether a client has left is the socket's to see.
        let door = Door::new(listener)?;
        let last_call = if door.is_shared() { connection::LAST_CALL_SHARED } else { connection::LAST_CALL };
        let shared = Shared {
            builder,
            connections: Mutex::default(),
            clock: Arc::default(),
            limits,
            last_call,
            left: Notify::new(),
        };
        Ok(Self { door, service, shared: Arc::new(shared), logger, keeps_ends: false, complained: None })
    }

    /// Whether [`Activity::ends`] will be asked for: the kernel is asked for a connection's address only then.
    pub fn keep_ends(mut self, keep: bool) -> Self {
        self.keeps_ends = keep;
        self
    }

    /// Accepts and serves until the shutdown closes it and every connection has ended.
    pub async fn run(mut self, shutdown: Shutdown) {
        let mut tick = tokio::time::interval(TICK);
        // Time in which nothing ran, this process included, is not the clients'.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut draining = false;
        for accepted in 1_u64.. {
            if accepted.is_multiple_of(TURN) {
                give_way().await;
            }
            tokio::select! {
                accepted = self.door.accept() => match accepted {
                    Ok((stream, client)) => self.take(stream, client, draining),
                    Err(error) => {
                        self.complain(&error);
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                _ = tick.tick() => self.sweep(),
                () = shutdown.draining.cancelled(), if !draining => {
                    draining = true;
                    self.announce_close();
                }
                () = shutdown.closing.cancelled() => break,
            }
        }
        // Whoever has connected by now is served.
        while let Some((stream, client)) = self.door.accept_now() {
            self.take(stream, client, true);
        }
        let Self { door, shared, .. } = self;
        drop(door);
        shared.close_all();
        tokio::select! {
            () = shared.ended() => {}
            () = shutdown.kill.cancelled() => {}
        }
    }

    /// Out of descriptors or memory: clients wait, and only an operator can help.
    fn complain(&mut self, error: &io::Error) {
        let client_left = error.kind() == io::ErrorKind::ConnectionAborted;
        if client_left || self.complained.is_some_and(|at| at.elapsed() < COMPLAINT_PAUSE) {
            return;
        }
        self.complained = Some(Instant::now());
        let connections = self.shared.connections().len();
        let fields = fields! {"err" => error.to_string(), "connections" => connections};
        self.logger.error("Failed to accept a connection", fields);
    }

    fn take(&self, stream: Stream, client: Option<SocketAddr>, closing: bool) {
        let server = self.keeps_ends.then(|| self.door.address_of(&stream)).flatten();
        let activity = Arc::new(Activity::new(self.shared.clock.clone()).with_ends(client, server));
        if closing {
            activity.close_after_answer();
        }
        let key = {
            let mut connections = self.shared.connections();
            if connections.len() >= self.shared.limits.connections_max {
                drop(connections);
                return refuse(&stream);
            }
            connections.insert(activity.clone())
        };
        let (shared, service) = (self.shared.clone(), self.service.clone());
        tokio::spawn(own(async move {
            let entry = Entry { shared: shared.clone(), key };
            connection::serve(stream, shared, activity, service).await;
            drop(entry);
        }));
    }

    fn sweep(&self) {
        let shared = &self.shared;
        shared.clock.fetch_add(1, Ordering::Relaxed);
        let limit = (shared.limits.stall.as_secs() / TICK.as_secs().max(1)) as u32;
        for (_, activity) in shared.connections().iter() {
            activity.sweep(limit);
        }
    }

    /// From now on every answer closes its connection.
    fn announce_close(&self) {
        for (_, activity) in self.shared.connections().iter() {
            activity.close_after_answer();
        }
    }
}

impl Shared {
    fn close_all(&self) {
        for (_, activity) in self.connections().iter() {
            activity.close();
        }
    }

    /// Lasts until no connection owes anything.
    async fn ended(&self) {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.connections().iter().all(|(_, activity)| activity.lingering()) {
                return;
            }
            // A connection that begins to linger does not leave; it is looked at again soon.
            drop(tokio::time::timeout(Duration::from_millis(10), left).await);
        }
    }
}

/// A connection's place in the list, given up even when its task is dropped.
struct Entry {
    shared: Arc<Shared>,
    key: usize,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.shared.connections().try_remove(self.key);
        self.shared.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::Ready;

    use std::io::Write;
    use std::net::SocketAddr;

    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpSocket, TcpStream};
    use tokio::task::JoinHandle;

    use hyper::body::Incoming;

    use super::*;
    use crate::net::{Phase, bind};

    type Page = Result<http::Response<Full<Bytes>>, Infallible>;

    fn limits() -> Limits {
        Limits { head_bytes_max: 4096, stall: Duration::from_secs(5), connections_max: 2 }
    }

    fn page(text: &'static str) -> Page {
        Ok(http::Response::new(Full::new(Bytes::from_static(text.as_bytes()))))
    }

    fn served(_: http::Request<Incoming>, activity: Arc<Activity>) -> Ready<Page> {
        activity.set_phase(Phase::Idle);
        std::future::ready(page("served"))
    }

    async fn reads(request: http::Request<Incoming>, activity: Arc<Activity>) -> Page {
        activity.set_phase(Phase::Body);
        let read = request.into_body().collect().await.is_ok();
        activity.set_phase(Phase::Idle);
        page(match (read, activity.expired()) {
            (true, _) => "read",
            (false, true) => "too slow",
            (false, false) => "broken",
        })
    }

    /// A server that runs, where it listens, and how to end it.
    fn start<S, F>(service: S) -> (SocketAddr, Shutdown, JoinHandle<()>)
    where
        S: Fn(http::Request<Incoming>, Arc<Activity>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Page> + Send + 'static,
    {
        let listener = bind("127.0.0.1:0").unwrap();
        let address = listener.tcp_address();
        let server = Server::new(listener, limits(), Logger::silent(), service).unwrap();
        let shutdown = Shutdown::default();
        (address, shutdown.clone(), tokio::spawn(async move { server.run(shutdown).await }))
    }

    /// Connects and sends at once: the kernel has it all before the server looks.
    fn client(address: SocketAddr, bytes: &[u8]) -> std::net::TcpStream {
        let mut client = std::net::TcpStream::connect(address).unwrap();
        client.write_all(bytes).unwrap();
        client
    }

    /// Everything up to the end of the connection.
    async fn rest(client: std::net::TcpStream) -> String {
        client.set_nonblocking(true).unwrap();
        let mut client = TcpStream::from_std(client).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn whoever_has_connected_is_served_even_if_the_runtime_has_not_heard_of_it() {
        let (address, shutdown, running) = start(served);
        tokio::time::sleep(Duration::from_millis(1)).await; // It waits for connections.
        // From here on the runtime gets no chance to look at its sockets before the server closes.
        let client = client(address, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        shutdown.draining.cancel();
        shutdown.closing.cancel();
        running.await.unwrap();
        assert!(rest(client).await.ends_with("served"));
    }

    /// The one answer, whose body is as long as it says.
    fn check_whole(answer: &str, start: &str, body: &str) {
        assert!(answer.starts_with(start), "{answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        let length = format!("content-length: {}\r\n", body.len());
        assert!(answer.to_lowercase().contains(&length), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_stands_still_is_answered_408() {
        let (address, _shutdown, _running) = start(served);
        let client = client(address, b"GET / HTTP/1.1\r\nHo");
        let body = "The request took too long to be received.";
        check_whole(&rest(client).await, "HTTP/1.1 408 ", body);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stands_still_is_answered_once_by_the_service() {
        let (address, _shutdown, _running) = start(reads);
        let client = client(address, b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf");
        check_whole(&rest(client).await, "HTTP/1.1 200 ", "too slow");
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_the_process_stood_still_is_not_the_clients() {
        let (address, _shutdown, _running) = start(reads);
        let head = b"POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: 4\r\n\r\nha";
        let mut client = client(address, head);
        tokio::time::sleep(Duration::from_millis(10)).await;
        tokio::time::advance(Duration::from_secs(100)).await;
        client.write_all(b"lf").unwrap();
        check_whole(&rest(client).await, "HTTP/1.1 200 ", "read");
    }

    #[tokio::test(start_paused = true)]
    async fn empty_lines_begin_no_request_and_cost_a_client_no_time() {
        let (address, _shutdown, _running) = start(served);
        let mut client = client(address, b"\r\n\r\n");
        tokio::time::sleep(Duration::from_secs(30)).await;
        client.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
        check_whole(&rest(client).await, "HTTP/1.1 200 ", "served");
    }

    /// Sends a body of that many bytes, so many a second.
    async fn drip(bytes: usize, bytes_a_second: usize) -> String {
        let (address, _shutdown, _running) = start(reads);
        let head = format!("POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: {bytes}\r\n\r\n");
        let mut client = client(address, head.as_bytes());
        for piece in vec![b'x'; bytes].chunks(bytes_a_second) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(client.write_all(piece)); // The server may have closed.
        }
        rest(client).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_come_slowly_but_not_for_ever() {
        check_whole(&drip(20 * 300, 300).await, "HTTP/1.1 200 ", "read");
        check_whole(&drip(4 * 10, 10).await, "HTTP/1.1 200 ", "read");
        check_whole(&drip(20 * 10, 10).await, "HTTP/1.1 200 ", "too slow");
    }

    #[test]
    fn time_in_which_a_body_is_not_waited_for_is_not_the_clients() {
        let clock = Arc::new(AtomicU32::new(0));
        let activity = Activity::new(clock.clone());
        activity.begin_body();
        for round in 0..3 {
            activity.await_body();
            clock.fetch_add(2, Ordering::Relaxed);
            activity.sweep(5);
            assert_eq!(activity.expired(), round == 2, "two ticks of each round are the client's");
            activity.read(b"x");
            activity.body_came();
            clock.fetch_add(100, Ordering::Relaxed);
            activity.sweep(5);
        }
    }

    #[tokio::test]
    async fn a_connection_too_many_is_told_so() {
        let (address, _shutdown, _running) = start(served);
        let _kept: Vec<_> = (0..2).map(|_| client(address, b"")).collect();
        let body = "The connection cannot be served because Server.Concurrency limit exceeded";
        let answer = rest(client(address, b"GET / HTTP/1.1\r\n\r\n")).await;
        check_whole(&answer, "HTTP/1.1 503 ", body);
    }

    /// Sweeps over a write that stays blocked while the client has still to take so many bytes.
    fn check_blocked(left: [u32; 4], expected: [bool; 4]) {
        let clock = Arc::new(AtomicU32::new(0));
        let activity = Activity::new(clock.clone());
        activity.set_phase(Phase::Streaming);
        let goes_on = left.map(|bytes| {
            clock.fetch_add(3, Ordering::Relaxed);
            activity.sweep(5);
            activity.wrote(true, || bytes).is_ok()
        });
        assert_eq!(goes_on, expected, "{left:?}");
    }

    #[test]
    fn only_bytes_that_the_client_takes_are_progress_of_a_blocked_write() {
        check_blocked([900, 900, 900, 900], [true, true, false, false]);
        check_blocked([900, 900, 800, 800], [true, true, true, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_an_answer_slowly_gets_all_of_it_and_one_that_takes_nothing_is_cut() {
        static BIG: [u8; 20 << 20] = [b'x'; 20 << 20];
        let (address, _shutdown, _running) = start(|_, activity: Arc<Activity>| {
            activity.set_phase(Phase::Idle);
            std::future::ready(Ok(http::Response::new(Full::new(Bytes::from_static(&BIG)))))
        });
        let ask = async || {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(64 << 10).unwrap(); // What is taken from it is soon acknowledged.
            let mut client = socket.connect(address).await.unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").await.unwrap();
            client
        };
        let (mut slow, mut stuck) = (ask().await, ask().await);
        let (mut taken, mut piece) = (0, vec![0; 64 << 10]);
        for _ in 0..30 {
            // Less than a third of what the kernel holds within the time that a client may stand still.
            tokio::time::sleep(Duration::from_secs(2)).await;
            taken += slow.read(&mut piece).await.unwrap();
            // The kernel's share of the work takes real time.
            tokio::time::resume();
            tokio::time::sleep(Duration::from_millis(3)).await;
            tokio::time::pause();
        }
        tokio::time::resume();
        taken += slow.read_to_end(&mut Vec::new()).await.unwrap();
        assert!(taken > BIG.len(), "{taken}");
        assert!(stuck.read_to_end(&mut Vec::new()).await.unwrap_or(0) < BIG.len());
    }
}
