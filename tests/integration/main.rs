//! The processor as a black box: the real binary, real interpreters, real sockets.
#![allow(clippy::disallowed_methods, reason = "tests may read their environment")]
#![allow(clippy::print_stdout, reason = "a test that cannot run says so")]
#![allow(clippy::unwrap_used, reason = "a test that cannot prepare has failed")]
#![allow(unreachable_pub, reason = "one program: what modules share is public")]

mod cli;
mod clients;
mod cloudevents;
mod compatibility;
mod conformance;
mod dashboard;
mod dev;
mod differences;
mod faults;
mod files;
mod handlers;
mod harness;
mod hostile;
mod kills;
mod layout;
mod library;
mod lifecycle;
mod logs;
mod metrics;
mod outputs;
mod packages;
mod pid1;
mod plugin_faults;
mod pushes;
mod readiness;
mod samples;
mod schema;
mod servers;
mod smoke;
mod support;
mod timeouts;
mod tracing;
mod webadmin;
