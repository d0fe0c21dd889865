//! `processor.yaml`: the function's metadata and everything of its `spec` but the triggers.
//!
//! The platform writes much more into the file than a processor needs; that part is neither decoded nor judged.

use std::time::Duration;

use super::decode::Fractions;
use super::error::{ConfigError, Problem};
use super::function_keys::{MetadataFile, SpecFile, Top};
use super::platform::PlatformFile;
use super::sinks::{self, Binding};
use super::source::{Source, setting};
use super::yaml::{Node, Value};
use super::{Env, Function, RuntimeKind, log_sinks, secrets, trigger, workers};

/// Handler or build path of the demonstration handler.
const BUILTIN: &str = "nuclio:builtin";

/// Messages around a value of the wrong type.
const AROUND: [&str; 2] = ["Failed to write configuration", "Failed to open configuration file"];

/// The file, decoded and with its secrets restored.
#[derive(Debug)]
pub(super) struct FunctionFile {
    root: Node,
    metadata: MetadataFile,
    spec: SpecFile,
}

/// Decodes the tree and restores its secrets.
pub(super) fn read(mut root: Node, source: &mut Source, env: &Env) -> Result<FunctionFile, ConfigError> {
    check_top(&root, source)?;
    restore_secrets(&mut root, source, env)?;
    let metadata = section(&root, "metadata", source)?;
    let spec = section(&root, "spec", source)?;
    Ok(FunctionFile { root, metadata, spec })
}

fn check_top(root: &Node, source: &mut Source) -> Result<(), ConfigError> {
    let top: Result<Top, _> = source.decode(root, "", Fractions::Refuse);
    top.map(drop).map_err(|error| {
        let found = error.found;
        let problem = source.place(root.line, "").problem("expected a map with `metadata` and `spec`").root(format!(
            "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into Go value of type \
             processor.Configuration"
        ));
        setting(around(problem.remedy("write these two keys at the left margin")))
    })
}

fn restore_secrets(root: &mut Node, source: &mut Source, env: &Env) -> Result<(), ConfigError> {
    let spec: SpecFile = section(root, "spec", &mut Source::new(&source.file))?;
    if !env.restore_secrets || spec.disable_sensitive_fields_masking {
        return Ok(());
    }
    let secrets = secrets::load(&env.secrets_directory)?;
    for reference in secrets::restore(root, &secrets) {
        source.warnings.push(format!("{}: no secret is mounted for {reference:?}", source.file.display()));
    }
    Ok(())
}

/// One of the two maps of the file; absent is empty.
fn section<T: serde::de::DeserializeOwned + Default>(
    root: &Node,
    key: &str,
    source: &mut Source,
) -> Result<T, ConfigError> {
    let Some(node) = root.child(key) else { return Ok(T::default()) };
    source.decode(node, key, Fractions::Refuse).map_err(|error| {
        let problem =
            source.decode_problem(error).remedy("mend the value, or remove the key for its default");
        setting(around(problem))
    })
}

fn around(problem: Box<Problem>) -> Box<Problem> {
    AROUND.iter().fold(problem, |problem, message| problem.cause(*message))
}

impl FunctionFile {
    /// Fills in defaults, in the order in which the Go processor finds mistakes.
    pub(super) fn resolve(
        self,
        source: &mut Source,
        platform: &PlatformFile,
        platform_source: &mut Source,
        env: &Env,
    ) -> Result<Function, ConfigError> {
        let event_timeout = self.event_timeout(source)?;
        let log_sinks = log_sinks::resolve(&self.log_wishes(source), platform, platform_source)?;
        let runtime = self.runtime(source)?;
        self.refuse_data_bindings(source)?;
        let wants_no_http =
            self.spec.disable_default_http_trigger.unwrap_or(platform.disables_default_http_trigger());
        let setup = trigger::Setup {
            runtime,
            cron_by_platform: env.kubernetes && platform.cron_by_platform(),
            add_http: !wants_no_http,
        };
        let triggers = trigger::resolve(self.root.child("spec"), &setup, source)?;
        let attributes = self.root.child("spec").and_then(|spec| spec.child("runtimeAttributes"));
        let refuse = |problem| setting(around(problem));
        let preload = workers::preload(attributes, runtime, source).map_err(refuse)?;
        let recycle = workers::recycle(attributes, runtime, source).map_err(refuse)?;
        let project = self.metadata.labels.get("nuclio.io/project-name").cloned();
        Ok(Function {
            name: self.metadata.name.clone(),
            namespace: self.metadata.namespace.clone(),
            project: project.unwrap_or_default(),
            annotations: self.metadata.annotations.clone(),
            description: self.spec.description.clone(),
            version: self.spec.version,
            runtime,
            handler: self.spec.handler.clone(),
            event_timeout,
            readiness_timeout: self.readiness_timeout(),
            default_http_trigger_disabled: wants_no_http && !triggers.file_has_http,
            triggers: triggers.list,
            log_sinks,
            runtime_attributes: self.runtime_attributes(source)?,
            preload,
            recycle,
            env: self.literal_env(),
            yaml: to_yaml(&self.root.to_json()),
        })
    }

    fn spec_line(&self, key: &str) -> usize {
        let entry = self.root.child("spec").and_then(|spec| spec.entry(key));
        entry.map_or(self.root.line_of("spec"), |entry| entry.line)
    }

    fn event_timeout(&self, source: &Source) -> Result<Option<Duration>, ConfigError> {
        let text = &self.spec.event_timeout;
        if text.is_empty() {
            return Ok(None);
        }
        let place = source.place(self.spec_line("eventTimeout"), "spec.eventTimeout");
        let timeout = place.duration(text).and_then(|timeout| {
            if timeout.is_zero_or_less() {
                let problem = place.problem(format!("eventTimeout <= 0 ({timeout})"));
                return Err(
                    problem.remedy("write a positive duration such as 30s, or remove the key for none")
                );
            }
            Ok(timeout.to_std())
        });
        timeout.map_err(|problem| {
            let message = format!("Can't parse Spec.EventTimeout ({text:?}) into time.Duration");
            setting(problem.cause(message).cause(AROUND[1]))
        })
    }

    fn log_wishes(&self, source: &Source) -> Vec<Binding> {
        sinks::bindings(source, &self.spec.logger_sinks, self.root.child("spec"), "loggerSinks", "spec")
    }

    /// The part before the colon names the runtime.
    fn runtime(&self, source: &mut Source) -> Result<RuntimeKind, ConfigError> {
        let place = source.place(self.spec_line("runtime"), "spec.runtime");
        let (name, version) = self.spec.runtime.split_once(':').unwrap_or((&self.spec.runtime, ""));
        if self.is_builtin() && matches!(name, "" | "golang") {
            return Ok(RuntimeKind::Builtin);
        }
        let known = sinks::list(RuntimeKind::NAMED.iter().map(|(name, _)| *name));
        if name.is_empty() {
            let problem =
                place.problem("the runtime is missing").remedy(format!("add spec.runtime, one of: {known}"));
            let problem = problem.root("Registry for runtime failed to find: ");
            return Err(setting(problem.cause("Failed to create triggers")));
        }
        if name == "python" && version.starts_with("3.6") {
            source.warn(&place, "python 3.6 is no longer supported by its makers");
        }
        RuntimeKind::from_name(name).ok_or_else(|| {
            let problem = place.problem(format!("Registry for runtime failed to find: {name}"));
            setting(problem.remedy(format!("use one of: {known}")).cause("Failed to create triggers"))
        })
    }

    fn is_builtin(&self) -> bool {
        let path = self.root.child("spec").and_then(|spec| spec.child("build")?.child("path"));
        let path_is_builtin =
            path.is_some_and(|node| node.scalar() == Some(super::scalar::Scalar::Text(BUILTIN)));
        self.spec.handler == BUILTIN || path_is_builtin
    }

    fn refuse_data_bindings(&self, source: &Source) -> Result<(), ConfigError> {
        let bindings = self.root.child("spec").and_then(|spec| spec.child("dataBindings"));
        let Some(Node { value: Value::Mapping(entries), .. }) = bindings else { return Ok(()) };
        let Some(entry) = entries.first() else { return Ok(()) };
        let text = |key: &str| match entry.value.child(key).map(|node| &node.value) {
            Some(Value::Scalar { text, .. }) => Some(text.clone()),
            _ => None,
        };
        let kind = text("kind").or_else(|| text("class")).unwrap_or_default();
        let place = source.place(entry.line, format!("spec.dataBindings.{}", entry.key));
        let problem = place.problem("data bindings are not supported").remedy(
            "remove spec.dataBindings and open the connection in the function (init_context or its like)",
        );
        let problem = problem.root(format!("Registry for databinding failed to find: {kind}"));
        Err(setting(problem.cause("Failed to create data binding").cause("Failed to create triggers")))
    }

    fn readiness_timeout(&self) -> Option<Duration> {
        let seconds = u64::try_from(self.spec.readiness_timeout_seconds).ok();
        seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }

    fn runtime_attributes(
        &self,
        source: &Source,
    ) -> Result<serde_json::Map<String, serde_json::Value>, ConfigError> {
        let node = self.root.child("spec").and_then(|spec| spec.child("runtimeAttributes"));
        match node.map(Node::to_json) {
            None => Ok(serde_json::Map::new()),
            Some(serde_json::Value::Object(map)) => match map.get(ROOT_PATH) {
                Some(path) if !path.as_str().is_some_and(is_root_path) => {
                    let place =
                        source.place(self.spec_line("runtimeAttributes"), "spec.runtimeAttributes.rootPath");
                    let problem = place.problem(format!("{path} is no path that an application can be at"));
                    Err(setting(around(
                        problem.remedy("write a text like /shop, with a slash only in front of names"),
                    )))
                }
                _ => Ok(map),
            },
            Some(_) => {
                let place = source.place(self.spec_line("runtimeAttributes"), "spec.runtimeAttributes");
                Err(setting(around(place.problem("expected a map").remedy("write `name: value` pairs"))))
            }
        }
    }

    fn literal_env(&self) -> Vec<(String, String)> {
        let literal = self.spec.env.iter().filter(|entry| entry.value_from.is_none());
        literal.map(|entry| (entry.name.clone(), entry.value.clone())).collect()
    }
}

/// Key of `runtimeAttributes`: where clients see a web application.
const ROOT_PATH: &str = "rootPath";

impl Function {
    /// `spec.runtimeAttributes.rootPath`: where clients see a web application; empty: at the root.
    pub fn root_path(&self) -> &str {
        self.runtime_attributes.get(ROOT_PATH).and_then(|path| path.as_str()).unwrap_or_default()
    }
}

/// Empty, or names each with a slash in front; as it stands in a target, but not encoded.
fn is_root_path(path: &str) -> bool {
    let sound = |name: &str| !name.is_empty() && !name.contains(['?', '#', '\0']);
    path.is_empty() || path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(sound))
}

/// The file as YAML text.
pub(super) fn to_yaml(file: &serde_json::Value) -> String {
    // JSON is YAML too, should the writer ever refuse.
    serde_yaml::to_string(file).unwrap_or_else(|_| file.to_string())
}
