//! A trigger turns something that happened into an event, the dispatcher lends it a worker, the worker answers, the
//! trigger turns the answer back.

pub mod admin;
pub mod app;
pub mod blueprint;
pub mod check;
pub mod cli;
pub mod config;
pub mod dev;
pub mod dispatch;
pub mod event;
pub mod invoke;
pub mod link;
pub mod logging;
pub mod metrics;
pub mod net;
pub mod otlp;
pub mod per_thread;
pub mod pool;
pub mod queue;
pub mod reaper;
pub mod run;
pub mod runtime;
pub mod shutdown;
pub mod trace;
pub mod trigger;
pub mod turns;
pub mod watched;
