//! The manifests of `examples/kubernetes`: judged by the schemas of Kubernetes and KEDA, they fit together, their
//! configuration starts, their probes and their stop do what they say.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::dashboard::{ask, scraping};
use crate::harness::{Client, Processor, Setup, get, wait_until};
use crate::packages::python_with;
use crate::servers::program;

/// The schemas of many releases of Kubernetes, and a model of KEDA's kinds made of its own definitions.
const PACKAGES: &[&str] = &["kubernetes-validate==1.37.0", "cloudcoil-models-keda==2.16.1.0"];
/// The oldest and the newest release that the package knows.
const RELEASES: [&str; 2] = ["1.25", "1.37"];

/// Reads a list of `{release, object}` from standard input; for each, what is wrong with it, or nothing.
const VALIDATE: &str = r#"
import json, sys
import kubernetes_validate
from cloudcoil.models.keda.v1alpha1 import ScaledObject

def unknown(given, known, path):
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            if key not in known:
                yield f"{path}.{key}: unknown key"
            else:
                yield from unknown(value, known[key], f"{path}.{key}")
    elif isinstance(given, list) and isinstance(known, list):
        for index, pair in enumerate(zip(given, known)):
            yield from unknown(*pair, f"{path}[{index}]")

def keda(thing):
    # The model drops keys that it does not know: what does not come back is one.
    model = ScaledObject.model_validate(thing)
    return next(unknown(thing, json.loads(model.model_dump_json(by_alias=True)), ""), "")

def wrong(release, thing):
    try:
        if thing["apiVersion"].startswith("keda.sh/"):
            return keda(thing)
        kubernetes_validate.validate(thing, release, strict=True)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""

print(json.dumps([wrong(task["release"], task["object"]) for task in json.load(sys.stdin)]))
"#;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/kubernetes")
}

/// All objects of all files, with the file's name.
fn objects() -> Vec<(String, Value)> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "yaml"));
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path).unwrap();
        for document in serde_yaml::Deserializer::from_str(&text) {
            let object: serde_yaml::Value = serde::Deserialize::deserialize(document).unwrap();
            found.push((name.clone(), serde_json::to_value(object).unwrap()));
        }
    }
    found
}

fn object(kind: &str, name: &str) -> Value {
    let is_it = |object: &Value| object["kind"] == kind && object["metadata"]["name"] == name;
    objects().into_iter().map(|(_, object)| object).find(is_it).unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// What the schemas find wrong with each object.
fn validate(python: &Path, tasks: &[(&str, &Value)]) -> Vec<String> {
    let tasks: Vec<Value> =
        tasks.iter().map(|(release, object)| json!({"release": release, "object": object})).collect();
    let mut child = Command::new(python)
        .args(["-c", VALIDATE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(json!(tasks).to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the validator fails");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_schemas_of_kubernetes_and_keda_find_nothing_in_the_manifests_and_every_mistake_put_into_them() {
    let python = match python_with("kubernetes", PACKAGES) {
        Ok(python) => python,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let objects = objects();
    let kinds: Vec<&str> = objects.iter().map(|(_, object)| object["kind"].as_str().unwrap()).collect();
    for kind in ["ConfigMap", "Deployment", "Service", "HorizontalPodAutoscaler", "ScaledObject"] {
        assert!(kinds.contains(&kind), "no {kind} in {kinds:?}");
    }
    // A key that nobody knows, and a value of the wrong type, in each of them.
    let broken: Vec<Value> = objects
        .iter()
        .flat_map(|(_, object)| {
            let at = if object.get("spec").is_some() { "spec" } else { "data" };
            let mut unknown = object.clone();
            unknown[if at == "spec" { at } else { "metadata" }]["replicaz"] = json!(1);
            let mut mistyped = object.clone();
            mistyped[at] = json!("text");
            [unknown, mistyped]
        })
        .collect();
    let good = objects.iter().flat_map(|(_, object)| RELEASES.map(|release| (release, object)));
    let bad = broken.iter().map(|object| (RELEASES[0], object));
    let tasks: Vec<(&str, &Value)> = good.chain(bad).collect();
    let found = validate(&python, &tasks);
    assert_eq!(found.len(), tasks.len());
    let (good, bad) = found.split_at(objects.len() * RELEASES.len());
    assert!(good.iter().all(String::is_empty), "{good:#?}");
    for (found, object) in bad.iter().zip(&broken) {
        assert!(!found.is_empty(), "nobody minds {object}");
    }
}

#[test]
fn the_manifests_fit_together() {
    let deployment = object("Deployment", "hello");
    let template = &deployment["spec"]["template"];
    let labels = template["metadata"]["labels"].as_object().unwrap();
    let service = object("Service", "hello");
    for selector in [&deployment["spec"]["selector"]["matchLabels"], &service["spec"]["selector"]] {
        assert!(selector.as_object().unwrap().iter().all(|(key, value)| labels.get(key) == Some(value)));
    }
    assert!(deployment["spec"].get("replicas").is_none(), "the autoscaler sets them");
    let container = &template["spec"]["containers"][0];
    for port in service["spec"]["ports"].as_array().unwrap() {
        let ports = container["ports"].as_array().unwrap();
        let target = ports.iter().find(|other| other["name"] == port["targetPort"]).unwrap();
        assert_eq!(target["containerPort"], port["port"]);
    }
    for scaler in [object("HorizontalPodAutoscaler", "hello"), object("ScaledObject", "hello")] {
        let target = &scaler["spec"]["scaleTargetRef"];
        assert_eq!([&target["kind"], &target["name"]], ["Deployment", "hello"], "{scaler}");
    }
    for volume in template["spec"]["volumes"].as_array().unwrap() {
        if let Some(name) = volume["configMap"]["name"].as_str() {
            object("ConfigMap", name);
        }
        let mounts = container["volumeMounts"].as_array().unwrap();
        assert!(mounts.iter().any(|mount| mount["name"] == volume["name"]), "{volume}");
    }
    // Figures of the platform's own controller.
    let probe = |path: &str, port: u16, delay: u32, period: u32, timeout: u32| {
        json!({"httpGet": {"path": path, "port": port}, "initialDelaySeconds": delay, "periodSeconds": period,
               "timeoutSeconds": timeout})
    };
    let mut readiness = probe("/__internal/health", 8080, 5, 1, 1);
    readiness["failureThreshold"] = json!(10);
    assert_eq!(container["readinessProbe"], readiness);
    assert_eq!(container["livenessProbe"], probe("/live", 8082, 10, 5, 3));
    assert!(container.get("lifecycle").is_none() && container.get("startupProbe").is_none());
    assert_eq!(
        container["name"],
        template["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"]
    );
}

fn config(map: &str, file: &str) -> Value {
    serde_yaml::from_str(object("ConfigMap", map)["data"][file].as_str().unwrap()).unwrap()
}

/// The function of the manifests, as a pod would run it, on ports of its own.
fn pod(source: &str) -> Setup {
    let mut setup = Setup::python(source);
    setup.function = config("hello", "processor.yaml");
    setup.platform = config("nuclio-platform", "platform.yaml");
    setup
        .env("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        .env("KUBERNETES_SERVICE_PORT", "443")
        .env("NUCLIO_FUNCTION_NAME", "hello")
        .env("NUCLIO_FUNCTION_INSTANCE", "hello-1")
}

#[test]
fn the_configuration_of_the_manifests_has_nothing_odd_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut check = Command::new(crate::harness::processor_bin());
    check.arg("check");
    for (map, file) in [("hello", "processor.yaml"), ("nuclio-platform", "platform.yaml")] {
        let path = folder.path().join(file);
        std::fs::write(&path, object("ConfigMap", map)["data"][file].as_str().unwrap()).unwrap();
        check.args((file == "platform.yaml").then_some("--platform-config")).arg(path);
    }
    let output = check.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.starts_with("function hello\n"), "{text}");
    // What Service and annotations say.
    assert!(text.contains(":8080") && text.contains("prometheusPull, :8090"), "{text}");
}

const ECHO: &str = "import time\ndef handler(context, event):\n    time.sleep(float(event.body or 0))\n    \
                    return 'served'\n";

/// Status of the two paths that the manifests probe.
fn probed(processor: &Processor) -> (u16, u16) {
    let deployment = object("Deployment", "hello");
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let status = |probe: &str, port: u16| {
        let path = container[probe]["httpGet"]["path"].as_str().unwrap().to_owned();
        get(port, &path).map_or(0, |answer| answer.status)
    };
    (status("readinessProbe", processor.ports.http), status("livenessProbe", processor.ports.health))
}

#[test]
fn a_pod_that_is_told_to_stop_is_not_ready_at_once_and_serves_until_nobody_sends_to_it_any_more() {
    let mut processor = pod(ECHO).start();
    assert_eq!(probed(&processor), (200, 200));
    assert!(processor.metric("nuclio_processor_build_info", &["instance=\"hello-1\""]) > 0.0);
    // Longer than the whole linger, so it is still in work when the listeners close.
    let long = processor.send("/", "6.5");
    processor.wait_in_flight(1);
    processor.signal(15);
    let begun = Instant::now();
    wait_until("it is not ready", || probed(&processor).0 == 503);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    // Endpoints still name it for a while.
    while begun.elapsed() < Duration::from_secs(3) {
        let mut client = Client::connect(processor.http());
        client.send_post("/", b"");
        let answer = client.read_answer(false).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "served"));
        assert_eq!(answer.header("Connection"), Some("close"));
        assert_eq!(probed(&processor), (503, 200));
    }
    assert_eq!(long.join().unwrap().text(), "served");
    assert_eq!(processor.wait().code(), Some(0));
    let grace =
        object("Deployment", "hello")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].clone();
    let longest = Duration::from_secs(grace.as_u64().unwrap());
    assert!(begun.elapsed() < longest, "{:?}: the kubelet would have killed it", begun.elapsed());
}

#[test]
fn the_query_that_scales_by_keda_counts_events_in_work_and_those_that_wait() {
    let Some(program) = program("prometheus") else { return };
    let processor = pod(ECHO).start();
    let prometheus = scraping(&program, &processor);
    let trigger = &object("ScaledObject", "hello")["spec"]["triggers"][0]["metadata"];
    let query = trigger["query"].as_str().unwrap();
    let activation: f64 = trigger["activationThreshold"].as_str().unwrap().parse().unwrap();
    wait_until("an idle function has a value", || ask(prometheus.port, query) == [0.0]);
    let events: Vec<_> = (0..5).map(|_| processor.send("/", "4")).collect();
    wait_until("all five are counted, of two workers", || ask(prometheus.port, query) == [5.0]);
    assert!(5.0 > activation);
    for event in events {
        assert_eq!(event.join().unwrap().status, 200);
    }
}
