//! Servers that others make, run beside a processor: Debian's, from the system or unpacked by `scripts/test`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::{free_port, get, wait_until};

/// A program of this name; `None`, and a line that says so: there is none.
pub fn program(name: &str) -> Option<PathBuf> {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/debian/usr/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).chain([unpacked]).map(|folder| folder.join(name));
    let found = found.into_iter().find(|path| path.is_file());
    if found.is_none() {
        println!("skipped: {name} is not installed (scripts/test unpacks it)");
    }
    found
}

/// A server on a port of its own; ends with the test.
pub struct Server {
    child: Child,
    pub port: u16,
}

impl Server {
    /// Starts it with these arguments and its address, and waits until `ready` answers 200.
    pub fn start(program: &Path, arguments: &[&str], ready: &str) -> Self {
        let port = free_port();
        let child = Command::new(program)
            .args(arguments)
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self { child, port };
        wait_until("the server answers", || {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none(), "{program:?} ended: {ended:?}");
            get(port, ready).is_ok_and(|answer| answer.status == 200)
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
