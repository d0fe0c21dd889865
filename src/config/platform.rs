//! `platform.yaml`: what the platform wants of every processor.
//!
//! Much of the file is for other programs; that part is neither decoded nor judged.

use serde::Deserialize;

use super::decode::Fractions;
use super::error::{ConfigError, Problem};
use super::ignored::Ignored;
use super::load::read_tree;
#[cfg(test)]
use super::schema::generate;
use super::sinks::{self, Binding, BindingFile, SinkDefinition};
use super::source::{Source, setting};
use super::yaml::Node;
use super::{Env, Function, Platform, PlatformKind, metric_sinks};

/// Web admin's address when nothing is said.
pub(super) const WEB_ADMIN_LISTEN: &str = ":8081";
/// Health server's address when nothing is said.
pub(super) const HEALTH_LISTEN: &str = ":8082";

/// Messages around an error of this file.
const AROUND: [&str; 3] = [
    "Failed to read configuration file",
    "Failed to read platform configuration",
    "Failed to get platform configuration",
];

/// The file, decoded.
#[derive(Debug, Default)]
pub(super) struct PlatformFile {
    settings: Settings,
    /// Log sinks by name; `None` when the file says nothing.
    pub(super) log_sinks: Option<Vec<SinkDefinition>>,
    /// What `logger.functions` binds; `None` when the file says nothing.
    pub(super) log_bindings: Option<Vec<Binding>>,
    metric_sinks: Vec<SinkDefinition>,
    metric_names: Vec<Binding>,
}

/// A platform as the processor reads it. Keys match in any case; null means that a key is absent.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Platform"))]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Settings {
    /// The environment says where the processor runs.
    _kind: Ignored,
    /// The server for `/triggers`; default address `:8081`.
    web_admin: ServerFile,
    /// The server for `/ready` and `/live`; default address `:8082`.
    health_check: ServerFile,
    /// Where log records go.
    logger: LoggerFile,
    /// Who gets metrics.
    metrics: MetricsFile,
    /// Who calls cron triggers: the processor, or on Kubernetes the platform.
    #[cfg_attr(test, schemars(extend("enum" = ["processor", "kube"], "default" = "processor")))]
    cron_trigger_creation_mode: String,
    /// No HTTP trigger is added to functions without one that do not say otherwise.
    #[serde(rename = "disableDefaultHTTPTrigger")]
    disable_default_http_trigger: bool,
    /// Version of the file's schema.
    _api_version: Ignored,
    /// How the platform scales.
    _auto_scale: Ignored,
    /// How the platform scales.
    _auto_scale_metrics_mode: Ignored,
    /// How the platform builds images.
    _container_builder_configuration: Ignored,
    /// Changes to functions that the platform makes when deploying.
    _function_augmented_configs: Ignored,
    /// Longest call of a function by the platform.
    _function_invocation_timeout: Ignored,
    /// Longest wait of the platform for a function to become ready.
    _function_readiness_timeout: Ignored,
    /// Sessions of a hosted platform.
    _iguazio_session_cookie: Ignored,
    /// Registries that stand in for others.
    _image_registry_overrides: Ignored,
    /// Ways from outside into the cluster.
    _ingress_config: Ignored,
    /// Settings of the platform on Kubernetes.
    _kube: Ignored,
    /// Settings of the platform on Docker.
    _local: Ignored,
    /// Namespaces of the platform.
    _managed_namespaces: Ignored,
    /// Name of the file as a resource.
    _metadata: Ignored,
    /// Who may do what on the platform.
    _opa: Ignored,
    /// Who leads the platform's projects.
    _projects_leader: Ignored,
    /// How the platform builds functions of each runtime.
    _runtime: Ignored,
    /// How the platform scales down to nothing.
    _scale_to_zero: Ignored,
    /// Which fields the platform masks.
    _sensitive_fields: Ignored,
    /// How the platform watches streams.
    _stream_monitoring: Ignored,
    /// Metrics by which the platform can scale.
    _supported_auto_scale_metrics: Ignored,
}

/// One of the processor's small servers.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Server"))]
#[serde(default, rename_all = "camelCase")]
struct ServerFile {
    /// Whether it runs.
    #[cfg_attr(test, schemars(extend("default" = true)))]
    enabled: Option<bool>,
    /// Where it listens, `host:port` or `:port`.
    listen_address: String,
}

/// Log sinks, and who uses which.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Logger"))]
#[serde(default, rename_all = "camelCase")]
struct LoggerFile {
    /// Sinks by name. Absent: one of name and kind `stdout`.
    #[cfg_attr(test, schemars(schema_with = "generate::log_sinks"))]
    _sinks: Ignored,
    /// Sinks for the records of processor and handler. Absent: `stdout` from level `debug`.
    functions: Option<Vec<BindingFile>>,
    /// Sinks for the platform's own services.
    _system: Ignored,
}

/// Metric sinks, and who uses which.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Metrics"))]
#[serde(default, rename_all = "camelCase")]
struct MetricsFile {
    /// Sinks by name.
    #[cfg_attr(test, schemars(schema_with = "generate::metric_sinks"))]
    _sinks: Ignored,
    /// Names of the sinks for processors.
    functions: Vec<String>,
    /// Names of the sinks for the platform's own services.
    _system: Ignored,
}

/// Reads the file; one that does not exist is all defaults.
pub(super) fn read(source: &mut Source) -> Result<PlatformFile, ConfigError> {
    match read_tree(&source.file, &AROUND, &AROUND) {
        Ok(None) | Err(ConfigError::Missing(_)) => Ok(PlatformFile::default()),
        Ok(Some(root)) => decode(&root, source).map_err(|problem| {
            setting(AROUND.iter().fold(problem, |problem, message| problem.cause(*message)))
        }),
        Err(error) => Err(error),
    }
}

fn decode(root: &Node, source: &mut Source) -> Result<PlatformFile, Box<Problem>> {
    let settings: Settings = source
        .decode(root, "", Fractions::Refuse)
        .map_err(|error| source.decode_problem(error).remedy("see the reference of platform.yaml"))?;
    let logger = root.child("logger");
    let metrics = root.child("metrics");
    let log_bindings = settings.logger.functions.as_ref();
    Ok(PlatformFile {
        log_bindings: log_bindings.map(|files| sinks::bindings(source, files, logger, "functions", "logger")),
        log_sinks: match logger.and_then(|node| node.child("sinks")) {
            Some(node) => Some(sinks::definitions(source, node, "logger.sinks")?),
            None => None,
        },
        metric_sinks: match metrics.and_then(|node| node.child("sinks")) {
            Some(node) => sinks::definitions(source, node, "metrics.sinks")?,
            None => Vec::new(),
        },
        metric_names: sinks::names(source, &settings.metrics.functions, metrics),
        settings,
    })
}

impl PlatformFile {
    /// Whether functions that say nothing get no default HTTP trigger.
    pub(super) fn disables_default_http_trigger(&self) -> bool {
        self.settings.disable_default_http_trigger
    }

    /// `cronTriggerCreationMode: kube`.
    pub(super) fn cron_by_platform(&self) -> bool {
        self.settings.cron_trigger_creation_mode == "kube"
    }

    /// Fills in defaults; the function gives metric sinks their instance name.
    pub(super) fn resolve(
        &self,
        function: &Function,
        source: &mut Source,
        env: &Env,
    ) -> Result<Platform, ConfigError> {
        Ok(Platform {
            kind: kind(env),
            web_admin: self.settings.web_admin.listen(WEB_ADMIN_LISTEN),
            health: self.settings.health_check.listen(HEALTH_LISTEN),
            metric_sinks: metric_sinks::resolve(
                &self.metric_names,
                &self.metric_sinks,
                function,
                source,
                env,
            )?,
            cron_by_platform: self.cron_by_platform(),
        })
    }
}

/// Where we run: only the environment says.
pub(super) fn kind(env: &Env) -> PlatformKind {
    if env.kubernetes { PlatformKind::Kube } else { PlatformKind::Local }
}

impl ServerFile {
    fn listen(&self, default: &str) -> Option<String> {
        let address = if self.listen_address.is_empty() { default } else { &self.listen_address };
        self.enabled.unwrap_or(true).then(|| address.to_owned())
    }
}
