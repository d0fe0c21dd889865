//! Where the HTTP trigger listens: IPv4, IPv6, both, a machine without IPv6, a socket file.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::harness::{Processor, Setup, free_port, get, python};

/// Skips, and says so, where this machine has no IPv6.
fn has_ipv6() -> bool {
    let has = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if !has {
        println!("skipped: no IPv6 here");
    }
    has
}

fn listening_on(url: &str) -> Setup {
    Setup::builtin().trigger(json!({"url": url}))
}

fn answers(host: &str, port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect((host, port)) else { return false };
    stream.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.starts_with("HTTP/1.1 200 OK\r\n")
}

#[test]
fn a_port_alone_is_every_address_of_both_families() {
    if !has_ipv6() {
        return;
    }
    let port = free_port();
    let _processor = listening_on(&format!(":{port}")).start();
    assert!(answers("127.0.0.1", port) && answers("::1", port));
}

#[test]
fn an_address_is_that_one_alone() {
    let port = free_port();
    let _v4 = listening_on(&format!("127.0.0.1:{port}")).start();
    assert!(answers("127.0.0.1", port) && !answers("::1", port));
    let port = free_port();
    let _name = listening_on(&format!("localhost:{port}")).start();
    assert!(answers("127.0.0.1", port), "a name means its IPv4 address where it has one");
    if has_ipv6() {
        let port = free_port();
        let _v6 = listening_on(&format!("[::1]:{port}")).start();
        assert!(answers("::1", port) && !answers("127.0.0.1", port));
    }
}

/// Lets `socket(AF_INET6, …)` fail as a kernel without IPv6 does, then becomes the processor.
const WITHOUT_IPV6: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
machine = os.uname().machine
audit, call = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}[machine]
rules = [(0x20, 0, 0, 4), (0x15, 0, 5, audit), (0x20, 0, 0, 0), (0x15, 0, 3, call), (0x20, 0, 0, 16),
         (0x15, 0, 1, 10), (0x06, 0, 0, 0x00050000 | 97), (0x06, 0, 0, 0x7FFF0000)]
code = b"".join(struct.pack("<HBBI", *rule) for rule in rules)
buffer = ctypes.create_string_buffer(code)
program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(rules), ctypes.addressof(buffer)))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program), 0, 0):
    sys.exit("no seccomp: errno %d" % ctypes.get_errno())
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[test]
fn a_machine_without_ipv6_listens_on_ipv4() {
    let probe = Command::new(python()).args(["-c", WITHOUT_IPV6, "/bin/true"]).output().unwrap();
    if !probe.status.success() {
        println!("skipped: {}", String::from_utf8_lossy(&probe.stderr).trim());
        return;
    }
    let port = free_port();
    let processor = listening_on(&format!(":{port}")).start_redirected(|command| {
        let mut limited = Command::new(python());
        limited.args(["-c", WITHOUT_IPV6]).arg(command.get_program()).args(command.get_args());
        limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        limited.stdin(std::process::Stdio::null());
        limited.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        *command = limited;
    });
    assert!(answers("127.0.0.1", port) && !answers("::1", port));
    assert_eq!(get(processor.ports.health, "/ready").unwrap().status, 200);
}

fn over_file(path: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.write_all(b"POST /x HTTP/1.1\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn at(path: &Path) -> String {
    format!("unix:{}", path.display())
}

#[test]
fn a_socket_file_is_served_and_removed_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    let mut processor = listening_on(&at(&path)).start();
    let metadata = std::fs::metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    for _ in 0..3 {
        assert!(over_file(&path).unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    processor.signal(15);
    assert!(processor.wait().success());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_socket_file_that_was_left_behind_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    drop(UnixListener::bind(&path).unwrap());
    let mut processor = listening_on(&at(&path)).start();
    assert!(over_file(&path).unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
    // Whoever takes its place keeps it.
    std::fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    processor.signal(15);
    assert!(processor.wait().success());
    assert!(path.exists());
}

fn refusal(url: &str) -> String {
    let mut processor: Processor = listening_on(url).no_wait().start();
    assert_eq!(processor.wait().code(), Some(1));
    processor.stdout.wait_closed();
    processor.stderr.wait_closed();
    processor.stdout.text() + &processor.stderr.text()
}

#[test]
fn a_socket_file_that_cannot_be_had_is_a_start_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    std::fs::write(&path, "precious").unwrap();
    let text = refusal(&at(&path));
    assert!(text.contains("is no socket") && text.contains("http.sock"), "{text}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(&path).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let text = refusal(&at(&path));
    assert!(text.contains("somebody listens there"), "{text}");
    drop(listener);
    let text = refusal(&at(&folder.path().join("missing/http.sock")));
    assert!(
        text.contains("cannot listen on")
            && text.contains("make the socket's folder or change spec.triggers."),
        "{text}"
    );
    for url in ["unix:", "unix:http.sock", &format!("unix:/{}", "x".repeat(200))] {
        let text = refusal(url);
        assert!(text.contains("is no file to listen on") && text.contains("unix:/run/"), "{text}");
    }
}
