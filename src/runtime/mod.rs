//! Runtimes make workers, workers handle events.

pub mod shim;
