//! The harness' own tests: `cargo test --test load`. A bench without cargo's harness has none, so the modules are
//! compiled once more, under this root.

#![expect(dead_code, reason = "what only `main.rs` calls")]

mod arguments;
mod client;
mod compare;
mod figures;
mod functions;
mod generator;
mod groups;
mod harness;
mod plot;
mod process_tree;
mod server;
mod side;
mod soak;
mod stalls;
mod table;
mod tools;
mod workload;
mod wrk;
