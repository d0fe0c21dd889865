//! Every key of `processor.yaml` above its triggers, as fields. Their comments are the descriptions of the schema.
//!
//! The platform writes much more into the file than a processor needs; those keys are of type [`Ignored`].

use std::collections::BTreeMap;

use serde::Deserialize;

use super::ignored::Ignored;
#[cfg(test)]
use super::schema::generate;
use super::sinks::BindingFile;
#[cfg(test)]
use super::trigger::TriggerFile;
#[cfg(test)]
use super::workers::AttributesFile;

/// A function as the processor reads it: `metadata` and `spec`. Keys match in any case; null means that a key is absent.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Function"))]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Top {
    /// Version of the resource's schema.
    _api_version: Ignored,
    /// Kind of the resource.
    _kind: Ignored,
    /// Written by the platform.
    _status: Ignored,
    /// Written by the platform.
    #[serde(rename = "PlatformConfig")]
    _platform_config: Ignored,
    /// Name, namespace, labels and annotations.
    #[cfg_attr(test, schemars(with = "MetadataFile"))]
    _metadata: Ignored,
    /// Runtime, handler, triggers and everything else.
    #[cfg_attr(test, schemars(with = "SpecFile"))]
    _spec: Ignored,
}

/// `metadata` of a function.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Metadata"))]
#[serde(default, rename_all = "camelCase")]
pub(super) struct MetadataFile {
    /// Name of the function; label `function` of metrics, and given to handlers.
    pub(super) name: String,
    /// Namespace of the function; label `namespace` of metrics, and given to handlers.
    pub(super) namespace: String,
    /// Labels. Only `nuclio.io/project-name` is used: label `project` of metrics.
    pub(super) labels: BTreeMap<String, String>,
    /// Annotations.
    pub(super) annotations: BTreeMap<String, String>,
    /// Written by Kubernetes.
    _resource_version: Ignored,
    /// Written by Kubernetes.
    _uid: Ignored,
    /// Written by Kubernetes.
    _generation: Ignored,
    /// Written by Kubernetes.
    _creation_timestamp: Ignored,
    /// Written by Kubernetes.
    _managed_fields: Ignored,
    /// Written by Kubernetes.
    _self_link: Ignored,
}

/// `spec` of a function.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Spec"))]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SpecFile {
    /// What the function is for; given to handlers.
    pub(super) description: String,
    /// Version of the function; given to handlers. The platform writes -1 for `latest`.
    pub(super) version: i64,
    /// Language of the handler, with its version behind a colon, for example `python:3.11`.
    #[cfg_attr(test, schemars(schema_with = "generate::runtime"))]
    pub(super) runtime: String,
    /// The function to call. Python: `package.module:function`. `nuclio:builtin` is a demonstration handler.
    pub(super) handler: String,
    /// Longest time one event may take in the handler, as Go duration (`30s`, `1m30s`). Absent or empty: no limit.
    #[cfg_attr(test, schemars(schema_with = "generate::duration"))]
    pub(super) event_timeout: String,
    /// Seconds until a deployment counts as failed. Here: longest wait for a worker to load its handler, if above 120.
    pub(super) readiness_timeout_seconds: i64,
    /// Variables that the platform puts into the container's environment. The processor gives them to shell handlers only.
    pub(super) env: Vec<EnvFile>,
    /// Where log records go, instead of `logger.functions` of the platform. One entry without `sink` is a level for all.
    pub(super) logger_sinks: Vec<BindingFile>,
    /// No HTTP trigger is added to a function without one. Absent: what `platform.yaml` says.
    #[serde(rename = "disableDefaultHTTPTrigger")]
    pub(super) disable_default_http_trigger: Option<bool>,
    /// Values are as written and not references into the mounted secret.
    pub(super) disable_sensitive_fields_masking: bool,
    /// Where events come from, by name.
    #[cfg_attr(test, schemars(with = "BTreeMap<String, TriggerFile>"))]
    _triggers: Ignored,
    /// Settings of workers and of some runtimes: `recycle` (handlers that are processes); `preload` (Python); `rootPath` (web applications in Python); `jvmOptions` (Java); `arguments`, `responseHeaders`, `stderr`, `stream`, `clientGone`, `inheritEnvironment` (shell).
    #[cfg_attr(test, schemars(with = "AttributesFile"))]
    _runtime_attributes: Ignored,
    /// How the platform builds the image.
    #[cfg_attr(test, schemars(with = "BuildFile"))]
    _build: Ignored,
    /// Connections to data. Not supported: any entry is refused at start.
    #[cfg_attr(test, schemars(with = "BTreeMap<String, serde_json::Value>", extend("maxProperties" = 0)))]
    _data_bindings: Ignored,
    /// Rules that tie pods to nodes.
    _affinity: Ignored,
    /// Alias of the function's version.
    _alias: Ignored,
    /// Metrics by which the platform scales.
    _auto_scale_metrics: Ignored,
    /// Metrics by which the platform scales.
    _custom_scaling_metric_specs: Ignored,
    /// Registry of images, in old files.
    #[serde(rename = "dealerURI")]
    _dealer_uri: Ignored,
    /// How the platform replaces pods.
    _deployment_strategy: Ignored,
    /// Devices of the container.
    _devices: Ignored,
    /// The platform stops the function.
    _disable: Ignored,
    /// Sources of the container's environment.
    _env_from: Ignored,
    /// The pod shares the host's IPC namespace.
    #[serde(rename = "hostIPC")]
    _host_ipc: Ignored,
    /// Image of the function.
    _image: Ignored,
    /// Changes when the image does.
    _image_hash: Ignored,
    /// When Kubernetes pulls the image.
    _image_pull_policy: Ignored,
    /// Secret for the registry.
    _image_pull_secrets: Ignored,
    /// Containers that run before this one.
    _init_containers: Ignored,
    /// Most replicas.
    _max_replicas: Ignored,
    /// Fewest replicas.
    _min_replicas: Ignored,
    /// Node of the pod.
    _node_name: Ignored,
    /// Labels of the nodes for the pod.
    _node_selector: Ignored,
    /// Settings of the container platform.
    _platform: Ignored,
    /// Whether pods may run on nodes that can be taken away.
    _preemption_mode: Ignored,
    /// Whether pods displace others.
    _preemption_policy: Ignored,
    /// Priority of the pod.
    _priority_class_name: Ignored,
    /// The platform publishes a version.
    _publish: Ignored,
    /// Number of replicas.
    _replicas: Ignored,
    /// Processor and memory of the container.
    _resources: Ignored,
    /// Registry that the image is pulled from.
    _run_registry: Ignored,
    /// How the platform scales down to nothing.
    _scale_to_zero: Ignored,
    /// User, group and rights of the pod.
    _security_context: Ignored,
    /// Account of the pod.
    _service_account: Ignored,
    /// Kind of the Kubernetes service.
    _service_type: Ignored,
    /// Further containers of the pod.
    _sidecars: Ignored,
    /// Processor use at which the platform adds replicas, per cent.
    #[serde(rename = "targetCPU")]
    _target_cpu: Ignored,
    /// Taints of nodes that the pod bears.
    _tolerations: Ignored,
    /// Volumes of the container.
    _volumes: Ignored,
    /// The platform waits the whole readiness timeout before it gives up.
    _wait_readiness_timeout_before_failure: Ignored,
}

/// A variable of the container's environment.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Env"))]
#[serde(default, rename_all = "camelCase")]
pub(super) struct EnvFile {
    /// Its name.
    pub(super) name: String,
    /// Its value. Quote numbers and booleans: the Go processor refuses them here.
    pub(super) value: String,
    /// Where Kubernetes takes the value from; such an entry is not given to handlers by the processor.
    #[cfg_attr(test, schemars(with = "Ignored"))]
    pub(super) value_from: Option<Ignored>,
}

/// `build` of a function; what else stands there is not judged.
#[cfg(test)]
#[derive(schemars::JsonSchema)]
#[schemars(rename = "Build", rename_all = "camelCase", extend("additionalProperties" = true))]
#[expect(dead_code, reason = "describes only")]
struct BuildFile {
    /// Path of the sources. `nuclio:builtin` selects the demonstration handler; anything else is ignored here.
    path: Option<String>,
}
