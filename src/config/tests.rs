//! The samples of `tests/vectors/config`, each against what `EXPECTED.md` there says of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;

mod good;
mod lint;
mod refused;

/// Address of a sample.
fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/config").join(name)
}

fn kube() -> Env {
    Env { kubernetes: true, ..Env::default() }
}

fn load(function: &str, platform: &str, env: Env) -> Result<Config, ConfigError> {
    Config::load(&sample(function), &sample(platform), env)
}

/// A sample with platform defaults.
fn config(function: &str) -> Config {
    load(function, "absent", Env::default()).expect(function)
}

/// A sample under a platform file.
fn config_on(function: &str, platform: &str) -> Config {
    load(function, platform, Env::default()).expect(platform)
}

/// A function file with this `spec`, indented by two.
fn config_of(spec: &str) -> Result<Config, ConfigError> {
    config_of_files(&format!("metadata: {{name: n, namespace: ns}}\nspec:\n{spec}"), "")
}

fn config_of_files(function: &str, platform: &str) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let files = [directory.path().join("f.yaml"), directory.path().join("p.yaml")];
    std::fs::write(&files[0], function).unwrap();
    std::fs::write(&files[1], platform).unwrap();
    Config::load(&files[0], &files[1], Env::default())
}

fn trigger<'a>(config: &'a Config, name: &str) -> &'a Trigger {
    config.function.triggers.iter().find(|trigger| trigger.name == name).expect(name)
}

fn http<'a>(config: &'a Config, name: &str) -> &'a HttpTrigger {
    match &trigger(config, name).kind {
        TriggerKind::Http(http) => http,
        other => panic!("{name} is {other:?}"),
    }
}

fn http_defaults() -> HttpTrigger {
    HttpTrigger {
        listen: ":8080".into(),
        head_bytes_max: 16384,
        body_bytes_max: 4_194_304,
        reduce_memory: false,
        cors: None,
        batch: None,
        in_flight_per_worker: 1,
        several_for: SeveralFor::Any,
        request_records: false,
        adopted: None,
    }
}
