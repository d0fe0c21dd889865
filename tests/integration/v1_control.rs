//! What the pool asks of a worker behind a wrapper of shim protocol 1: drain, continue.

use std::time::Duration;

use nuclio_processor::runtime::shim::dialects;
use nuclio_processor::runtime::shim::protocol::v2::ControlCode;

use crate::harness::{PATIENCE, python};
use crate::v1_bench::{Bench, text};

async fn start(environment: &[(&str, &str)]) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("wrapper.py"),
        include_str!("../handlers/python/wrapper_v1/wrapper.py"),
    )
    .unwrap();
    Bench::start(folder, "wrapper.py", &dialects::PYTHON, python(), environment, "main:handler")
        .await
        .unwrap()
}

/// Events in work are answered first; then nothing is sent to the worker until it may continue.
async fn check_drain(environment: &[(&str, &str)]) {
    let bench = start(environment).await;
    let late = bench.submit("/late/0.4");
    let drained = bench.control(ControlCode::Drain, PATIENCE).await;
    let mut during = bench.submit("/echo");
    assert_eq!(text(late.await.unwrap()), "late");
    drained.await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(during.try_recv().is_err(), "a drained worker gets no event");
    bench.control(ControlCode::Continue, PATIENCE).await.await.unwrap().unwrap();
    assert_eq!(text(during.await.unwrap()), "alive");
    assert_eq!(text(bench.submit("/echo").await.unwrap()), "alive");
}

#[tokio::test]
async fn a_drain_waits_for_the_event_in_work_and_for_the_wrappers_word() {
    tokio::time::timeout(PATIENCE, check_drain(&[])).await.unwrap();
}

#[tokio::test]
async fn a_drain_of_a_wrapper_that_says_nothing_ends_with_its_silence() {
    tokio::time::timeout(PATIENCE, check_drain(&[("WRAPPER_DRAIN", "silent")])).await.unwrap();
}
