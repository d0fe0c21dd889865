//! Images on a real Docker engine: built as users build them, run as they are run, and broken as they break.
//!
//! Not part of an ordinary `cargo test`: `cargo test --test engine` starts an engine if none runs, makes base images
//! (`scripts/engine`) and our own (`scripts/images`), and `-- --include-ignored` runs everything. Start reading at
//! `docker.rs`.
#![allow(clippy::disallowed_methods, reason = "tests may read their environment")]
#![allow(clippy::print_stdout, reason = "a test that cannot run says so")]
#![allow(clippy::unwrap_used, reason = "a test that cannot prepare has failed")]
#![allow(unreachable_pub, reason = "one program: what modules share is public")]

mod blueprints;
mod compose;
mod contract;
mod docker;
mod failures;
mod figures;
mod golang;
mod habits;
#[path = "../integration/harness.rs"]
#[expect(dead_code, reason = "shared with the tests of the bare processor, which use the rest of it")]
mod harness;
mod libc;
mod nuctl;
mod process1;
