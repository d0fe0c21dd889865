//! The processor as a black box: the real binary, real interpreters, real sockets.
#![allow(clippy::disallowed_methods, reason = "tests may read their environment")]
#![allow(clippy::print_stdout, reason = "a test that cannot run says so")]
#![allow(clippy::unwrap_used, reason = "a test that cannot prepare has failed")]
#![allow(unreachable_pub, reason = "one program: what modules share is public")]

mod addresses;
mod batches;
mod blueprint;
mod bodies;
mod cli;
mod clients;
mod cloud_batches;
mod cloudevents;
mod compatibility;
mod conformance;
mod cron;
mod cron_replace;
mod dashboard;
mod dev;
mod differences;
mod faults;
mod files;
mod golang;
mod golang_build;
mod half_close;
mod handlers;
mod harness;
mod headers;
mod hostile;
mod images;
mod kills;
mod kubernetes;
mod languages;
mod layout;
mod library;
mod lifecycle;
mod logs;
mod metrics;
mod nodejs;
mod outputs;
mod packages;
mod pid1;
mod plugin_faults;
mod pushes;
mod python;
mod readiness;
mod samples;
mod schema;
mod servers;
mod smoke;
mod smuggling;
mod support;
mod timeouts;
mod tracing;
mod triggers;
mod v1_async;
mod v1_batch;
mod v1_control;
mod v1_hostile;
mod v1_start;
mod v1_wire;
mod webadmin;
