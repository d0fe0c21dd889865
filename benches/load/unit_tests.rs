//! The harness' own tests: `cargo test --test load`. A bench without cargo's harness has none, so the modules are
//! compiled once more, under this root.

#![expect(dead_code, reason = "what only `main.rs` calls")]

mod arguments;
mod bare_hyper;
mod client;
mod compare;
mod figures;
mod functions;
mod generator;
mod goals;
mod groups;
mod harness;
mod overload;
mod plot;
mod process_tree;
mod report;
mod scrapes;
mod server;
mod side;
mod soak;
mod stalls;
mod standard;
mod table;
mod tools;
mod workload;
mod wrk;
