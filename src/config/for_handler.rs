//! A configuration without files: one handler, one HTTP trigger, the platform's defaults.

use super::{
    Config, Env, Function, Platform, RuntimeKind, function, http_trigger, log_sinks, platform, trigger,
};

impl Config {
    /// A configuration for one handler, as `processor dev` uses it: side servers on, logs for people.
    pub fn for_handler(
        runtime: RuntimeKind,
        handler: &str,
        listen: &str,
        workers: usize,
        env: Env,
    ) -> Config {
        let name = handler.split([':', '.', '/']).find(|part| !part.is_empty()).unwrap_or("handler");
        let file = serde_json::json!({
            "metadata": { "name": name },
            "spec": {
                "runtime": runtime.name(),
                "handler": handler,
                "triggers": {
                    trigger::DEFAULT_HTTP_NAME: { "kind": "http", "url": listen, "numWorkers": workers },
                },
            },
        });
        let function = Function {
            name: name.to_owned(),
            runtime,
            handler: handler.to_owned(),
            triggers: vec![http_trigger::plain(trigger::DEFAULT_HTTP_NAME, listen, workers.max(1), runtime)],
            log_sinks: vec![log_sinks::console()],
            yaml: function::to_yaml(&file),
            ..Function::default()
        };
        let platform = Platform {
            kind: platform::kind(&env),
            web_admin: Some(platform::WEB_ADMIN_LISTEN.into()),
            health: Some(platform::HEALTH_LISTEN.into()),
            metric_sinks: Vec::new(),
            cron_by_platform: false,
        };
        Config { function, platform, env, warnings: Vec::new() }
    }
}
