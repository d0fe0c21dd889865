//! Addresses to listen on, and the sockets behind them: TCP, or a file in the file system.

use std::fs::Permissions;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::{Errno, writev};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType,
    acceptfrom_with, getsockname, recv, send, shutdown,
};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpSocket;

use crate::watched::Watched;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;
/// What an address that names a file begins with.
pub const UNIX_PREFIX: &str = "unix:";
/// A connection on which nothing moves is probed this often; nine probes without an answer end it.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Our sockets are not our children's, and nobody waits in a call.
const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);
/// Who may connect to a socket file: its user and its group.
const SOCKET_FILE_MODE: u32 = 0o660;

/// A bound address that nobody serves yet.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    keep: Keep,
    file: Option<SocketFile>,
}

/// Who has a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// We alone: with its end nobody listens.
    Alone,
    /// Others, too: whoever has connected by then is theirs.
    Shared,
}

impl Listener {
    /// Serves a socket that its owner keeps.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn adopt(listener: &std::net::TcpListener) -> io::Result<Self> {
        let listener = listener.try_clone()?;
        listener.set_nonblocking(true)?;
        Ok(Self { socket: listener.into(), keep: Keep::Shared, file: None })
    }

    /// The TCP address, if it is one.
    #[cfg(test)]
    pub(super) fn tcp_address(&self) -> SocketAddr {
        tcp(getsockname(&self.socket).unwrap()).expect("a socket file")
    }
}

/// An address as the kernel gives it, if it is one of TCP.
fn tcp(address: SocketAddrAny) -> Option<SocketAddr> {
    address.try_into().ok()
}

/// Binds `host:port`, where an empty host means every address, IPv6 and IPv4; or `unix:/path`, which makes a socket
/// file that its user and group may use, and that is removed when it is no longer served.
///
/// # Errors
/// The address cannot be resolved or bound; a file of that name is no socket, or somebody listens there.
pub fn bind(address: &str) -> io::Result<Listener> {
    if let Some(path) = address.strip_prefix(UNIX_PREFIX) {
        return bind_file(Path::new(path));
    }
    Ok(Listener { socket: bind_tcp(address)?.into(), keep: Keep::Alone, file: None })
}

/// As [`bind`], of an address that is no file.
///
/// # Errors
/// As [`bind`].
pub fn bind_tcp(address: &str) -> io::Result<std::net::TcpListener> {
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "address is not host:port"));
    };
    if !host.is_empty() {
        // compat: a name meant its IPv4 address where it has one.
        let mut resolved: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
        resolved.sort_by_key(SocketAddr::is_ipv6);
        let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
        for address in resolved {
            result = listen(address);
            if !matches!(&result, Err(error) if lacks_family(error)) {
                break;
            }
        }
        return result;
    }
    let port =
        port.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "port is not a number"))?;
    match listen((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error) if lacks_family(&error) => listen((Ipv4Addr::UNSPECIFIED, port).into()),
        result => result,
    }
}

/// Whether two addresses of [`bind`] cannot be bound together, as far as they tell without being resolved.
pub fn collide(one: &str, other: &str) -> bool {
    match (one.strip_prefix(UNIX_PREFIX), other.strip_prefix(UNIX_PREFIX)) {
        (Some(one), Some(other)) => return Path::new(one) == Path::new(other),
        (None, None) => {}
        _ => return false,
    }
    let (Some((one, port)), Some((other, other_port))) = (one.rsplit_once(':'), other.rsplit_once(':'))
    else {
        return false;
    };
    // Each port 0 is another free one.
    if port.parse::<u16>().ok() != other_port.parse().ok() || port.parse() == Ok(0_u16) {
        return false;
    }
    let address = |host: &str| match host.to_lowercase().as_str() {
        "" => Some(IpAddr::from(Ipv6Addr::UNSPECIFIED)),
        "localhost" => Some(IpAddr::from(Ipv4Addr::LOCALHOST)),
        host => host.trim_matches(['[', ']']).parse().ok().map(|address: IpAddr| address.to_canonical()),
    };
    match (address(one), address(other)) {
        (Some(one), Some(other)) => one == other || covers(one, other) || covers(other, one),
        _ => one.eq_ignore_ascii_case(other),
    }
}

/// Whether the first address is every one of the second's kind: `[::]` is bound for IPv4, too.
fn covers(every: IpAddr, one: IpAddr) -> bool {
    every.is_unspecified() && (every.is_ipv6() || one.is_ipv4())
}

/// Hosts without IPv6, or without IPv4, say it in one of these ways.
fn lacks_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
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
    prepare(&socket);
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// Small writes go out at once, and a client that has vanished is noticed in the end. What is said of a listener holds
/// for its connections, which costs them no calls.
fn prepare(listener: &TcpSocket) {
    use rustix::net::sockopt;
    listener.set_nodelay(true).unwrap_or_default();
    sockopt::set_socket_keepalive(listener, true).unwrap_or_default();
    sockopt::set_tcp_keepidle(listener, KEEP_ALIVE).unwrap_or_default();
    sockopt::set_tcp_keepintvl(listener, KEEP_ALIVE).unwrap_or_default();
}

/// A socket file of ours; removed when dropped, unless another one has taken its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Makes the file under another name, so that nobody connects before its mode is set, and renames it, which also
/// replaces what a process that was killed has left.
fn bind_file(path: &Path) -> io::Result<Listener> {
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file of that name is no socket"));
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody listens there"));
        }
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{:x}", fastrand::u16(..)));
    let new = PathBuf::from(name);
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(&new)?)?;
    let made = SocketFile { inode: inode(&new)?, path: new };
    std::fs::set_permissions(&made.path, Permissions::from_mode(SOCKET_FILE_MODE))?;
    rustix::net::listen(&socket, i32::try_from(BACKLOG).unwrap_or(i32::MAX))?;
    std::fs::rename(&made.path, path)?;
    let file = SocketFile { path: path.to_owned(), inode: made.inode };
    Ok(Listener { socket, keep: Keep::Alone, file: Some(file) })
}

/// A listener on the current runtime.
pub(super) struct Door {
    socket: Watched<OwnedFd>,
    keep: Keep,
    /// That its connections arrive at, unless it is every one of the host's.
    address: Option<SocketAddr>,
    /// Removed when dropped.
    file: Option<SocketFile>,
}

impl Door {
    pub(super) fn new(listener: Listener) -> io::Result<Self> {
        let Listener { socket, keep, file } = listener;
        let address = tcp(getsockname(&socket)?).filter(|address| !address.ip().is_unspecified());
        Ok(Self { socket: Watched::new(socket, Interest::READABLE)?, keep, address, file })
    }

    /// Whether others have the socket, too.
    pub(super) fn is_shared(&self) -> bool {
        self.keep == Keep::Shared
    }

    /// The next connection, and where it comes from.
    pub(super) async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        self.socket.once_readable(accept).await.and_then(Stream::new)
    }

    /// A connection that waits in the kernel, whether or not the runtime has heard of it yet, and where it comes from;
    /// none where somebody else will accept it.
    pub(super) fn accept_now(&self) -> Option<(Stream, Option<SocketAddr>)> {
        if self.is_shared() {
            return None;
        }
        loop {
            match accept(self.socket.get()) {
                Ok(accepted) => return Stream::new(accepted).ok(),
                Err(Errno::INTR | Errno::CONNABORTED) => {} // That one left already.
                Err(_) => return None,
            }
        }
    }

    /// The address that a connection of it arrived at. The kernel is asked only where it can be one of several.
    pub(super) fn address_of(&self, stream: &Stream) -> Option<SocketAddr> {
        if self.file.is_some() {
            return None;
        }
        self.address.or_else(|| tcp(getsockname(stream).ok()?))
    }
}

fn accept(socket: &OwnedFd) -> rustix::io::Result<(OwnedFd, Option<SocketAddrAny>)> {
    acceptfrom_with(socket, FLAGS)
}

/// How many bytes wait in the kernel to be read, one at most; they stay. 0: none ever come.
pub(super) fn peek(socket: impl AsFd) -> rustix::io::Result<usize> {
    let mut byte = [0];
    Ok(recv(socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT)?.0)
}

/// A connection's socket.
#[derive(Debug)]
pub(super) struct Stream(Watched<OwnedFd>);

impl Stream {
    /// Of what has been accepted, and where it comes from, unless that is a file.
    fn new((socket, client): (OwnedFd, Option<SocketAddrAny>)) -> io::Result<(Self, Option<SocketAddr>)> {
        let stream = Self(Watched::new(socket, Interest::READABLE | Interest::WRITABLE)?.try_first());
        Ok((stream, client.and_then(tcp)))
    }

    /// As much as fits at once.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
    }

    /// As much as is there.
    pub(super) fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self, bytes, RecvFlags::DONTWAIT)?.0)
    }

    /// How many bytes there are to read, one at most; they stay. 0: none ever come.
    pub(super) fn poll_peek(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.0.poll_call(cx, Interest::READABLE, 1, |socket| peek(socket))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.poll_recv(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0
            .poll_call(cx, Interest::WRITABLE, bytes.len(), |socket| send(socket, bytes, SendFlags::NOSIGNAL))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Of many pieces the kernel takes the first only, which would look as if there were no room for more.
        self.0.poll_call(cx, Interest::WRITABLE, 0, |socket| writev(socket, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match shutdown(&*self, Shutdown::Write) {
            Err(Errno::NOTCONN) => Poll::Ready(Ok(())), // The client has ended it.
            shut => Poll::Ready(Ok(shut?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_collide_where_the_kernel_says_so() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let hosts = [
            "",
            "[::]",
            "0.0.0.0",
            "127.0.0.1",
            "127.0.0.2",
            "[::1]",
            "localhost",
            "LocalHost",
            "[::ffff:127.0.0.1]",
        ];
        let address = |host: &str| format!("{host}:{port}");
        let mut compared = 0;
        for one in hosts.map(address) {
            for other in hosts.map(address) {
                // A machine may lack a family.
                if bind(&other).is_err() {
                    continue;
                }
                let Ok(_first) = bind(&one) else { continue };
                assert_eq!(bind(&other).is_err(), collide(&one, &other), "{one} {other}");
                compared += 1;
            }
        }
        assert!(compared > 20, "{compared}");
    }

    #[tokio::test]
    async fn connections_are_as_their_listener_was_prepared() {
        use rustix::net::sockopt;
        let listener = bind("127.0.0.1:0").unwrap();
        let _client = std::net::TcpStream::connect(listener.tcp_address()).unwrap();
        let (stream, _) = Door::new(listener).unwrap().accept().await.unwrap();
        assert!(sockopt::tcp_nodelay(&stream).unwrap());
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), KEEP_ALIVE);
        assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), KEEP_ALIVE);
    }

    #[tokio::test]
    async fn both_ends_of_a_connection_are_known_however_it_was_bound_and_accepted() {
        for host in ["127.0.0.1", "0.0.0.0", "[::1]", ""] {
            let Ok(listener) = bind(&format!("{host}:0")) else { continue }; // A machine may lack a family.
            let mut to = listener.tcp_address();
            if to.ip().is_unspecified() {
                to.set_ip(Ipv4Addr::LOCALHOST.into());
            }
            let door = Door::new(listener).unwrap();
            for waits in [true, false] {
                let connected = std::net::TcpStream::connect(to).unwrap();
                let (stream, client) =
                    if waits { door.accept().await.unwrap() } else { door.accept_now().unwrap() };
                let canonical = |end: SocketAddr| (end.ip().to_canonical(), end.port());
                assert_eq!(canonical(client.unwrap()), canonical(connected.local_addr().unwrap()), "{host}");
                assert_eq!(
                    canonical(door.address_of(&stream).unwrap()),
                    canonical(connected.peer_addr().unwrap()),
                    "{host}"
                );
            }
        }
    }

    #[test]
    fn other_ports_and_free_ones_and_files_of_other_names_do_not_collide() {
        let cases = [
            (":8080", ":8081", false),
            (":0", ":0", false),
            ("name:80", "NAME:80", true),
            ("name:80", "other:80", false),
            ("unix:/run/a", "unix:/run/a", true),
            ("unix:/run/a", "unix:/run/b", false),
            ("unix:/run/a", ":80", false),
        ];
        for (one, other, expected) in cases {
            assert_eq!(collide(one, other), expected, "{one} {other}");
            assert_eq!(collide(other, one), expected, "{other} {one}");
        }
    }
}
