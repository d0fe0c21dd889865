//! Accepts connections, watches over them, closes them all.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use slab::Slab;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;

use super::connection::{self, Activity};
use crate::shutdown::Shutdown;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;
/// Connections at once.
const CONNECTIONS_MAX: usize = 262_144;
/// How often slow clients are looked for.
const TICK: Duration = Duration::from_secs(1);
/// After a failed accept (no descriptors left), others get a chance to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// What a connection too many gets.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 77\r\n\
    Connection: close\r\n\r\nThe connection cannot be served because Server.Concurrency limit exceeded    \n";

/// What a client may ask of us.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of request line and headers with the empty line.
    pub head_bytes_max: usize,
    /// Time for a head, and longest time without a byte of a body or of an answer taken.
    pub stall: Duration,
}

/// Binds `host:port`. An empty host means every address, IPv6 and IPv4.
///
/// # Errors
/// The address cannot be resolved or bound.
pub fn bind(address: &str) -> io::Result<std::net::TcpListener> {
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "address is not host:port"));
    };
    if !host.is_empty() {
        let resolved = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        return listen(resolved);
    }
    let port =
        port.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "port is not a number"))?;
    match listen((Ipv6Addr::UNSPECIFIED, port).into()) {
        // Hosts without IPv6.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            listen((Ipv4Addr::UNSPECIFIED, port).into())
        }
        result => result,
    }
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = if address.is_ipv6() {
        let socket = TcpSocket::new_v6()?;
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
        socket
    } else {
        TcpSocket::new_v4()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// What all connections of a server share.
pub(super) struct Shared {
    pub(super) builder: http1::Builder,
    connections: Mutex<Slab<Arc<Activity>>>,
    clock: Arc<AtomicU32>,
    limits: Limits,
    left: Notify,
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Slab<Arc<Activity>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bound address and the service behind it.
pub struct Server<S> {
    listener: TcpListener,
    service: S,
    shared: Arc<Shared>,
}

impl<S, F, B> Server<S>
where
    S: Fn(http::Request<Incoming>, Arc<Activity>) -> F + Clone + Send + 'static,
    F: Future<Output = http::Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Serves `listener` on the current runtime once [`Server::run`] is polled.
    ///
    /// # Errors
    /// The listener cannot be registered.
    pub fn new(listener: std::net::TcpListener, limits: Limits, service: S) -> io::Result<Self> {
        let mut builder = http1::Builder::new();
        builder.title_case_headers(true).max_header_size(limits.head_bytes_max).header_read_timeout(None);
        let shared = Shared {
            builder,
            connections: Mutex::default(),
            clock: Arc::default(),
            limits,
            left: Notify::new(),
        };
        Ok(Self { listener: TcpListener::from_std(listener)?, service, shared: Arc::new(shared) })
    }

    /// Accepts and serves until the shutdown closes it and every connection has ended.
    pub async fn run(self, shutdown: Shutdown) {
        let mut tick = tokio::time::interval(TICK);
        let mut draining = false;
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => self.take(stream, draining),
                    // Out of descriptors, or the client left already.
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
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
        while let Some(stream) = self.accept_now() {
            self.take(stream, true);
        }
        let Self { listener, shared, .. } = self;
        drop(listener);
        shared.close_all();
        tokio::select! {
            () = shared.ended() => {}
            () = shutdown.kill.cancelled() => {}
        }
    }

    /// A connection that waits in the kernel, whether or not the runtime has heard of it yet.
    fn accept_now(&self) -> Option<TcpStream> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            match accept_with(&self.listener, flags) {
                Ok(fd) => return TcpStream::from_std(fd.into()).ok(),
                Err(Errno::INTR | Errno::CONNABORTED) => {} // That one left already.
                Err(_) => return None,
            }
        }
    }

    fn take(&self, stream: TcpStream, closing: bool) {
        let activity = Arc::new(Activity::new(self.shared.clock.clone()));
        if closing {
            activity.close_after_answer();
        }
        let key = {
            let mut connections = self.shared.connections();
            if connections.len() >= CONNECTIONS_MAX {
                drop(stream.try_write(TOO_MANY));
                return;
            }
            connections.insert(activity.clone())
        };
        stream.set_nodelay(true).unwrap_or_default();
        rustix::net::sockopt::set_socket_keepalive(&stream, true).unwrap_or_default();
        let (shared, service) = (self.shared.clone(), self.service.clone());
        tokio::spawn(async move {
            let entry = Entry { shared: shared.clone(), key };
            connection::serve(stream, shared, activity, service).await;
            drop(entry);
        });
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
    use std::io::{Read, Write};

    use bytes::Bytes;
    use http_body_util::Full;

    use super::*;
    use crate::net::Phase;

    #[tokio::test]
    async fn whoever_has_connected_is_served_even_if_the_runtime_has_not_heard_of_it() {
        let listener = bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits { head_bytes_max: 4096, stall: Duration::from_secs(60) };
        let service = |_, activity: Arc<Activity>| async move {
            activity.set_phase(Phase::Idle);
            http::Response::new(Full::new(Bytes::from_static(b"served")))
        };
        let server = Server::new(listener, limits, service).unwrap();
        let shutdown = Shutdown::default();
        let running = tokio::spawn(server.run(shutdown.clone()));
        tokio::time::sleep(Duration::from_millis(1)).await; // It waits for connections.
        // From here on the runtime gets no chance to look at its sockets before the server closes.
        let mut client = std::net::TcpStream::connect(address).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        shutdown.draining.cancel();
        shutdown.closing.cancel();
        running.await.unwrap();
        let mut answer = String::new();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let read = tokio::task::spawn_blocking(move || client.read_to_string(&mut answer).map(|_| answer));
        assert!(read.await.unwrap().unwrap().ends_with("served"));
    }
}
