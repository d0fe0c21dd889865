//! From a function's triggers to the settings of its pools, and what their shim workers are told at the start.

use std::time::Duration;

use super::EventThreads;
use crate::config::{self, Config, PlatformKind, RuntimeKind, SeveralFor, TriggerKind};
use crate::pool;
use crate::reaper::Children;
use crate::runtime::shim::languages;

/// Longest wait for a shim to become ready, unless the configuration asks for more.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Events written ahead to a busy shim. One that turns out slow delays those behind it, though other workers may be
/// free by then.
const AHEAD_MAX: usize = 8;
/// The same for a pool's only worker: nobody else could take them.
const AHEAD_MAX_ALONE: usize = 32;

/// One pool to start: of a trigger, or of all triggers that share an allocator.
pub(super) struct PoolPlan<'a> {
    pub(super) name: String,
    pub(super) shared: bool,
    pub(super) trigger: &'a config::Trigger,
}

/// Trigger or allocator that the workers of a trigger are named after.
pub(super) fn pool_name(trigger: &config::Trigger) -> &str {
    trigger.allocator.as_deref().unwrap_or(&trigger.name)
}

/// The pools of a function.
pub(super) fn plan_pools(config: &Config) -> Vec<PoolPlan<'_>> {
    let mut plans: Vec<PoolPlan<'_>> = Vec::new();
    for trigger in &config.function.triggers {
        let (name, shared) = (pool_name(trigger).to_owned(), trigger.allocator.is_some());
        if !plans.iter().any(|plan| plan.name == name && plan.shared && shared) {
            plans.push(PoolPlan { name, shared, trigger });
        }
    }
    plans
}

impl PoolPlan<'_> {
    /// What the pool needs to know.
    pub(super) fn settings(
        &self,
        config: &Config,
        children: &Children,
        events: &EventThreads,
    ) -> pool::Settings {
        let (function, env) = (&config.function, &config.env);
        let in_flight_per_worker = match &self.trigger.kind {
            TriggerKind::Http(http) => http.in_flight_per_worker,
            TriggerKind::Cron(_) | TriggerKind::Kickstart(_) | TriggerKind::Unsupported { .. } => 1,
        };
        let default_start = function.readiness_timeout.unwrap_or_default().max(START_TIMEOUT);
        pool::Settings {
            trigger_kind: if self.shared { String::new() } else { self.trigger.kind.name().to_owned() },
            name: self.name.clone(),
            workers: self.trigger.workers,
            event_timeout: function.event_timeout,
            in_flight_per_worker,
            batches: matches!(&self.trigger.kind, TriggerKind::Http(http) if http.batch.is_some()),
            ahead_max: env.shim_prefetch.unwrap_or(if self.trigger.workers == 1 {
                AHEAD_MAX_ALONE
            } else {
                AHEAD_MAX
            }),
            start_timeout: env.worker_start_timeout.unwrap_or(default_start),
            waiting_max: env.waiting_events_max,
            stuck_max: env.stuck_threads_max,
            calls: events.calls.clone(),
            reserve: events.reserve.clone(),
            recycling: function.recycle.map(|recycle| pool::Recycling {
                events: recycle.events,
                memory: recycle.memory,
                age: recycle.age,
                jitter: recycle.jitter,
                allowed: self.trigger.termination_timeout,
            }),
            init: init_settings(config, self.trigger),
            children: children.clone(),
        }
    }
}

/// What every shim worker of a pool is told at its start.
fn init_settings(config: &Config, trigger: &config::Trigger) -> Vec<(&'static str, String)> {
    let (function, env) = (&config.function, &config.env);
    let lowest = function.log_sinks.iter().map(|sink| sink.level as u8).min().unwrap_or(0);
    let mut init = vec![
        ("handler", function.handler.clone()),
        ("function_name", function.name.clone()),
        ("function_version", function.version.to_string()),
        ("function_description", function.description.clone()),
        ("project", function.project.clone()),
        ("namespace", function.namespace.clone()),
        (
            "platform_kind",
            if config.platform.kind == PlatformKind::Kube { "kube" } else { "local" }.to_owned(),
        ),
        ("decode_strings", u8::from(env.python_decode_strings).to_string()),
        (
            "event_loop",
            env.python_uvloop.map_or("auto", |uv| if uv { "uvloop" } else { "asyncio" }).to_owned(),
        ),
        ("log_level", lowest.to_string()),
        ("stop_timeout_ms", trigger.termination_timeout.as_millis().to_string()),
        ("max_inflight_for", several_for(trigger).name().to_owned()),
        ("root_path", function.root_path().to_owned()),
        ("triggers", function.triggers.len().to_string()),
    ];
    if let Some(language) = languages::of(function.runtime) {
        init.push(("handler_dir", language.handler_dir(env).display().to_string()));
    }
    init.extend(env.source_list.iter().map(|path| ("source_list", path.display().to_string())));
    if function.runtime == RuntimeKind::Golang && !function.yaml.contains('\0') {
        init.push(("config_yaml", function.yaml.clone())); // As a library gets it.
    }
    for (index, trigger) in function.triggers.iter().enumerate() {
        // The names are few and last as long as the process.
        let name = |part: &str| -> &'static str { format!("trigger.{index}.{part}").leak() };
        init.push((name("class"), trigger.kind.class().to_owned()));
        init.push((name("kind"), trigger.kind.name().to_owned()));
        init.push((name("name"), trigger.name.clone()));
    }
    init
}

/// Which handlers get several events at a time.
fn several_for(trigger: &config::Trigger) -> SeveralFor {
    if let TriggerKind::Http(http) = &trigger.kind { http.several_for } else { SeveralFor::Any }
}
