//! Connections to a wrapper, and where they come from: Unix sockets that we listen on, TCP where the wrapper listens.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::{TcpSocket, TcpStream, UnixListener, UnixStream};
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
