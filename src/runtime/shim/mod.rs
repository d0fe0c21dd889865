//! A shim worker: one connection to one process of ours in the handler's language. Languages differ by data
//! ([`languages`]), not by code.

mod answers;
mod batch;
mod compiled;
pub mod connection;
mod deadline;
pub mod desk;
pub mod dialects;
pub mod fork_server;
pub mod handshake;
mod intake;
pub mod languages;
mod order;
mod pace;
pub mod process;
pub mod protocol;
pub mod socket;
pub mod start;
pub mod stream;
pub mod v1;
mod wake;
mod watch;
pub mod worker;
