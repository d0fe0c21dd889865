//! `platform.yaml`: what the platform wants of every processor.
//!
//! Much of the file is for other programs; that part is neither decoded nor judged.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::decode::Fractions;
use super::error::{ConfigError, Problem};
use super::load::read_tree;
use super::sinks::{self, Binding, BindingFile, SinkDefinition};
use super::source::{Source, setting};
use super::yaml::Node;
use super::{Env, Function, Platform, PlatformKind, metric_sinks};

/// Web admin's address when nothing is said.
pub(super) const WEB_ADMIN_LISTEN: &str = ":8081";
/// Health server's address when nothing is said.
pub(super) const HEALTH_LISTEN: &str = ":8082";

/// Keys of the file that are for other programs.
const IGNORED: &[&str] = &[
    "apiVersion",
    "autoScale",
    "autoScaleMetricsMode",
    "containerBuilderConfiguration",
    "functionAugmentedConfigs",
    "functionInvocationTimeout",
    "functionReadinessTimeout",
    "iguazioSessionCookie",
    "imageRegistryOverrides",
    "ingressConfig",
    "kube",
    "local",
    "managedNamespaces",
    "metadata",
    "opa",
    "projectsLeader",
    "runtime",
    "scaleToZero",
    "sensitiveFields",
    "streamMonitoring",
    "supportedAutoScaleMetrics",
];

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

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Settings {
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    web_admin: ServerFile,
    health_check: ServerFile,
    logger: LoggerFile,
    metrics: MetricsFile,
    cron_trigger_creation_mode: String,
    #[serde(rename = "disableDefaultHTTPTrigger")]
    disable_default_http_trigger: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServerFile {
    enabled: Option<bool>,
    listen_address: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LoggerFile {
    #[serde(rename = "sinks")]
    _sinks: IgnoredAny,
    functions: Option<Vec<BindingFile>>,
    #[serde(rename = "system")]
    _system: IgnoredAny,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MetricsFile {
    #[serde(rename = "sinks")]
    _sinks: IgnoredAny,
    functions: Vec<String>,
    #[serde(rename = "system")]
    _system: IgnoredAny,
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
        .decode(root, "", Fractions::Refuse, IGNORED)
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
