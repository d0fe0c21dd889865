//! Connections to a wrapper, and where they come from: Unix sockets that we listen on, TCP where the wrapper listens.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::task::Poll;

use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

/// Where sockets go: the first folder that takes them. Some wrappers take no path above 91 bytes.
const FOLDERS: [&str; 4] = ["/tmp", "/dev/shm", "/var/tmp", "/run"];
/// Digits of a socket's name.
const NAME_DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";

/// One connection: the wrapper connected to us (Unix), or we to the wrapper (TCP).
pub(super) type Socket = Either<UnixStream, TcpStream>;

/// A Unix socket that waits for one connection. Its name is gone when this is.
#[derive(Debug)]
pub(super) struct Listener {
    path: PathBuf,
    listener: std::os::unix::net::UnixListener,
}

impl Listener {
    /// Listens under a name nobody else has; only the processor's own user may connect.
    pub(super) fn bind() -> io::Result<Self> {
        let mut failure = io::Error::from(io::ErrorKind::NotFound);
        for folder in FOLDERS {
            let digit = |_| char::from(NAME_DIGITS[fastrand::usize(..NAME_DIGITS.len())]);
            let name: String = (0..20).map(digit).collect();
            let path = Path::new(folder).join(format!("nuclio-rpc-{name}.sock"));
            match std::os::unix::net::UnixListener::bind(&path) {
                Ok(listener) => {
                    let this = Self { path, listener };
                    std::fs::set_permissions(&this.path, std::fs::Permissions::from_mode(0o600))?;
                    this.listener.set_nonblocking(true)?;
                    return Ok(this);
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Where it listens.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The first connection of our own user. Then nothing listens any more.
    pub(super) async fn accept(self) -> io::Result<UnixStream> {
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        let own = rustix::process::geteuid().as_raw();
        loop {
            let (stream, _) = listener.accept().await?;
            if stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0) {
                return Ok(stream);
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).unwrap_or_default(); // Gone already is as good.
    }
}

/// Ports that are tried until one is free on both loopback addresses.
const PORTS_TRIED: usize = 20;

/// One TCP port of both loopback addresses, that waits for one connection.
#[derive(Debug)]
pub(super) struct Loopback {
    listeners: Vec<std::net::TcpListener>,
    address: SocketAddr,
}

impl Loopback {
    /// Listens on a free port; wrappers connect to `localhost`, whichever of the two that is for them.
    pub(super) fn bind() -> io::Result<Self> {
        let mut tried = 0;
        loop {
            let first = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let address = first.local_addr()?;
            let mut listeners = vec![first];
            tried += 1;
            match std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, address.port())) {
                Ok(second) => listeners.push(second),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tried < PORTS_TRIED => continue,
                Err(_) => {} // No IPv6 here.
            }
            for listener in &listeners {
                listener.set_nonblocking(true)?;
            }
            return Ok(Self { listeners, address });
        }
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The first connection of our own user, as far as the system tells. Then nothing listens any more.
    pub(super) async fn accept(self) -> io::Result<TcpStream> {
        let listeners: Vec<TcpListener> =
            self.listeners.into_iter().map(TcpListener::from_std).collect::<io::Result<_>>()?;
        let own = rustix::process::geteuid().as_raw();
        loop {
            let accept = poll_fn(|cx| {
                let ready = listeners.iter().find_map(|listener| match listener.poll_accept(cx) {
                    Poll::Ready(accepted) => Some(accepted),
                    Poll::Pending => None,
                });
                ready.map_or(Poll::Pending, Poll::Ready)
            });
            let (stream, peer) = accept.await?;
            if user_of(peer, stream.local_addr()?).is_none_or(|user| user == own || user == 0) {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
        }
    }
}

/// Whose the other end of a connection within this machine is, by the kernel's tables. `None`: they do not say.
fn user_of(peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    let ends = [kernel_form(peer, false), kernel_form(local, false)];
    // Programs with one kind of socket for both reach IPv4 by way of IPv6.
    let mapped = [kernel_form(peer, true), kernel_form(local, true)];
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"].iter().find_map(|table| {
        let table = std::fs::read_to_string(table).ok()?;
        table.lines().find_map(|line| {
            let words: Vec<&str> = line.split_whitespace().take(8).collect();
            let [_, from, to, _, _, _, _, user] = words[..] else { return None };
            let same = [&ends, &mapped].iter().any(|ends| ends[0] == from && ends[1] == to);
            same.then(|| user.parse().ok()).flatten()
        })
    })
}

/// An address as the kernel's tables have it: words of 32 bits of the machine's own order, and the port.
fn kernel_form(address: SocketAddr, mapped: bool) -> String {
    let bytes = match address.ip() {
        IpAddr::V4(ip) if mapped => ip.to_ipv6_mapped().octets().to_vec(),
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let word =
        |bytes: &[u8]| bytes.iter().rev().fold(String::new(), |text, byte| format!("{text}{byte:02X}"));
    let words: String = if cfg!(target_endian = "little") {
        bytes.chunks(4).map(word).collect()
    } else {
        bytes.iter().map(|byte| format!("{byte:02X}")).collect()
    };
    format!("{words}:{:04X}", address.port())
}

/// A TCP port of the loopback interface that a wrapper may listen on.
#[derive(Debug)]
pub(super) struct Port {
    address: SocketAddr,
    /// Keeps the port from everybody who does not, like the wrapper, ask for this very one.
    _reserved: TcpSocket,
}

impl Port {
    /// One that is free.
    pub(super) fn reserve() -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self { address: socket.local_addr()?, _reserved: socket })
    }

    /// Where the wrapper is to listen.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_our_users_alone_and_its_name_goes_with_it() {
        let listener = Listener::bind().unwrap();
        let path = listener.path().to_owned();
        assert!(path.as_os_str().len() <= 91);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let client = UnixStream::connect(&path).await.unwrap();
        let server = listener.accept().await.unwrap();
        assert!(!path.exists());
        drop((client, server));
        let unused = Listener::bind().unwrap();
        let path = unused.path().to_owned();
        drop(unused);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_loopback_port_takes_one_connection_of_our_user_over_either_family() {
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let loopback = Loopback::bind().unwrap();
            if ip.is_ipv6() && loopback.listeners.len() == 1 {
                println!("skipped: no IPv6");
                return;
            }
            let address = SocketAddr::new(ip, loopback.address().port());
            let client = TcpStream::connect(address).await.unwrap();
            let server = loopback.accept().await.unwrap();
            let user = user_of(client.local_addr().unwrap(), address);
            assert_eq!(user, Some(rustix::process::geteuid().as_raw()));
            assert!(TcpStream::connect(address).await.is_err());
            drop((client, server));
        }
    }

    #[tokio::test]
    async fn a_reserved_port_can_be_listened_on_by_whoever_knows_it() {
        let port = Port::reserve().unwrap();
        let wrapper = TcpSocket::new_v4().unwrap();
        wrapper.set_reuseaddr(true).unwrap();
        wrapper.bind(port.address()).unwrap();
        let wrapper = wrapper.listen(8).unwrap();
        let client = TcpStream::connect(port.address()).await.unwrap();
        drop((wrapper.accept().await.unwrap(), client));
    }
}
