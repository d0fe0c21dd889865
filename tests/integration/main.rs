//! The processor as a black box: the real binary, real interpreters, real sockets.
#![allow(clippy::disallowed_methods, reason = "tests may read their environment")]

mod harness;
mod smoke;
