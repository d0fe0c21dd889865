//! Files as answers, beyond the vectors: large ones, clients that leave, files that change while they are sent.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use crate::harness::{Client, Processor, Setup, wait_until};

/// Answers with the file of the request's path, in the test's folder; `?delete` has it deleted.
const HANDLER: &str = r#"
import os

FOLDER = os.path.dirname(os.path.abspath(__file__))


def handler(context, event):
    headers = {"x-Nuclio-FILESTREAM-path": FOLDER + event.path}
    if "delete" in event.fields:
        headers["X-NUCLIO-filestream-delete-after-send"] = "yes"
    return context.Response(headers=headers, body="ignored", status_code=203, content_type="a/b")
"#;
const LARGE: usize = 64 << 20;
/// The large file must not be held: far less than its size.
const GROWTH_MAX: usize = 24 << 20;

fn start() -> Processor {
    Setup::python(HANDLER).start()
}

/// A file whose every eight bytes are different.
fn large_file(processor: &Processor) -> PathBuf {
    let path = processor.directory.path().join("large");
    let content: Vec<u8> = (0..LARGE as u64 / 8).flat_map(u64::to_le_bytes).collect();
    std::fs::write(&path, content).unwrap();
    path
}

fn head(method: &str, target: &str) -> Vec<u8> {
    format!("{method} {target} HTTP/1.1\r\nHost: test\r\n\r\n").into_bytes()
}

/// Resident bytes of a process.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[test]
fn a_large_file_is_sent_whole_in_bounded_memory_and_others_are_served_meanwhile() {
    let processor = start();
    std::fs::write(processor.directory.path().join("small"), "small").unwrap();
    let path = large_file(&processor);
    assert_eq!(processor.get("/small").text(), "small");
    let before = resident(processor.child.id());
    let mut client = Client::connect(processor.http());
    client.send(&head("GET", "/large?delete"));
    let answer = client.read_head().unwrap();
    assert_eq!((answer.status, answer.header("Content-Type")), (203, Some("a/b")));
    assert_eq!(answer.header("Content-Length"), Some(LARGE.to_string().as_str()));
    // The client takes its time: what it has not taken stays in the file.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(processor.get("/small").text(), "small");
    assert!(resident(processor.child.id()) < before + GROWTH_MAX);
    assert!(path.exists());
    let mut word = [0; 8];
    for number in 0..LARGE as u64 / 8 {
        client.reader().read_exact(&mut word).unwrap();
        assert_eq!(u64::from_le_bytes(word), number);
    }
    assert!(resident(processor.child.id()) < before + GROWTH_MAX);
    wait_until("the file is gone", || !path.exists());
    client.send(&head("GET", "/small"));
    assert_eq!(client.read_answer(false).unwrap().text(), "small");
}

#[test]
fn head_of_a_large_file_announces_its_length_and_sends_nothing() {
    let processor = start();
    let path = large_file(&processor);
    let mut client = Client::connect(processor.http());
    client.send(&head("HEAD", "/large?delete"));
    let answer = client.read_answer(true).unwrap();
    assert_eq!((answer.status, answer.header("Content-Length")), (203, Some(LARGE.to_string().as_str())));
    assert_eq!(answer.header("Transfer-Encoding"), None);
    client.send(&head("GET", "/missing"));
    assert_eq!(client.read_answer(false).unwrap().status, 404);
    wait_until("the file is gone", || !path.exists());
}

#[test]
fn a_file_to_delete_is_gone_when_its_client_has_left() {
    let processor = start();
    let path = large_file(&processor);
    let mut client = Client::connect(processor.http());
    client.send(&head("GET", "/large?delete"));
    client.read_head().unwrap();
    assert!(path.exists());
    drop(client);
    wait_until("the file is gone", || !path.exists());
}

#[test]
fn a_file_that_becomes_shorter_ends_the_connection_and_one_that_grows_does_not_matter() {
    let processor = start();
    let path = large_file(&processor);
    let file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    let mut client = Client::connect(processor.http());
    client.send(&head("GET", "/large"));
    client.read_head().unwrap();
    file.set_len(LARGE as u64 + 5).unwrap();
    std::io::copy(&mut client.reader().take(LARGE as u64), &mut std::io::sink()).unwrap();
    client.send(&head("GET", "/large"));
    assert_eq!(client.read_head().unwrap().header("Content-Length"), Some((LARGE + 5).to_string().as_str()));
    file.set_len(LARGE as u64 / 2).unwrap();
    let mut rest = Vec::new();
    // The end comes as a reset or as an end of file.
    drop(client.reader().read_to_end(&mut rest));
    assert!(rest.len() < LARGE + 5);
    processor.stdout.wait_for_record("Failed to send a file");
    assert_eq!(processor.get("/missing").status, 404);
}
