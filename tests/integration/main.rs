//! The processor as a black box: the real binary, real interpreters, real sockets.
#![allow(clippy::disallowed_methods, reason = "tests may read their environment")]
#![allow(clippy::unwrap_used, reason = "a test that cannot prepare has failed")]
#![allow(clippy::print_stdout, reason = "what was not tested is said on stdout")]
#![allow(unreachable_pub, reason = "one program: what modules share is public")]

mod conformance;
mod handlers;
mod harness;
mod library;
mod samples;
mod smoke;
