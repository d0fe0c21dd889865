//! What `nuctl` does to containers on the Docker platform, step by step: configuration in a volume that a detached
//! container writes, labels, waiting for health, calls whose logs come back, redeploys by kill, builds from artifacts.

use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

use crate::docker::{self, Build, Container, Image, available, base, docker, folder, unique};
use crate::habits::{Volume, ask, succeeds};
use crate::harness::{Answer, merge};

/// What holds `processor.yaml` in a function's container.
const CONFIG: &str = "/etc/nuclio/config/processor";
const HELPER: &str = "nuclio-base:musl";

const HANDLER: &str = r#"
import os, time

def handler(context, event):
    context.logger.debug("too low")
    context.logger.info_with("Handling \u00e9v\u00e9nement", path=event.path)
    context.logger.warn("careful")
    if event.path == "/raise":
        raise ValueError("on purpose")
    if event.path == "/slow":
        time.sleep(3)
    if event.path == "/flood":
        for n in range(200):
            context.logger.info("line %d of many" % n)
    return os.environ.get("GREETING", "none") + " " + event.path
"#;

/// An image with the handler above; `None`: there is no engine.
fn image() -> Option<Image> {
    if !available() {
        return None;
    }
    base("musl");
    Some(docker::python(HANDLER))
}

/// A function as `nuctl deploy --run-image` makes it.
struct Function {
    name: String,
    container: Container,
    _volume: Volume,
}

/// `processor.yaml` in the form in which it is written: with a key that means nothing to a processor, an empty
/// timeout, and the source of the function, which may be large.
fn config(name: &str, more: Value) -> String {
    let mut config = json!({
        "metadata": {"name": name, "namespace": "nuclio", "labels": {"nuclio.io/project-name": "default"}},
        "spec": {
            "runtime": "python:3.9", "handler": "main:handler", "eventTimeout": "",
            "loggerSinks": [{"level": "debug"}],
            "triggers": {"default-http": {"class": "", "kind": "http", "name": "default-http", "numWorkers": 1}},
            "build": {"functionSourceCode": "x".repeat(60_000), "codeEntryType": "image"},
            "platform": {"attributes": {"healthCheckInterval": "1s"}},
        },
        "PlatformConfig": null,
    });
    merge(&mut config["spec"], more);
    serde_yaml::to_string(&config).unwrap()
}

/// The detached container that writes the configuration into the volume; nobody looks at what comes of it.
fn write_config(volume: &Volume, config: &str, late: &str) {
    let encoded = base64::engine::general_purpose::STANDARD.encode(config);
    let command = format!(
        "sleep {late}; echo \"{encoded}\" | base64 -d | install -m 777 /dev/stdin {CONFIG}/processor.yaml"
    );
    let mount = format!("source={},destination={CONFIG}", volume.0);
    docker(&["run", "--detach", "--rm", "--mount", &mount, HELPER, "sh", "-c", &command]);
}

impl Function {
    fn deploy(image: &Image, more: Value, late: &str, options: &[&str]) -> Self {
        let function = unique("function");
        let name = format!("nuclio-nuclio-{function}");
        let volume = Volume::create(&name);
        write_config(&volume, &config(&function, more), late);
        let container = start(&name, &function, image, options);
        Self { name: function, container, _volume: volume }
    }

    /// `nuctl invoke`: one request, without a retry.
    fn invoke(&self, path: &str, level: &str, body: &str) -> Answer {
        let method = if body.is_empty() { "GET" } else { "POST" };
        let headers = format!(
            "X-Nuclio-Target: {}\r\nX-Nuclio-Log-Level: {level}\r\nUser-Agent: Go-http-client/1.1\r\n\
             Accept-Encoding: gzip\r\n",
            self.name
        );
        ask(self.container.port(), method, path, &headers, body)
            .unwrap_or_else(|error| panic!("{path}: {error}\n{}", self.container.logs()))
    }
}

/// The third step of a deploy, with the options in the platform's order.
fn start(name: &str, function: &str, image: &Image, options: &[&str]) -> Container {
    let mut arguments = Vec::from(options);
    if !options.contains(&"--publish") {
        arguments.extend(["--publish", "8080"]);
    }
    let label = format!("nuclio.io/function-name={function}");
    let mount = format!("type=volume,source={name},destination={CONFIG},readonly");
    arguments.extend(["--name", name, "--label", "nuclio.io/platform=local"]);
    arguments.extend(["--label", "nuclio.io/namespace=nuclio", "--label", &label]);
    arguments.extend(["--label", "nuclio.io/project-name=default", "--mount", &mount, &image.name]);
    // By its id: another container will have its name one day.
    Container::of(docker(&[&["run", "--detach"], &arguments[..]].concat()))
}

/// The records that came back: what `nuctl` needs of them holds.
fn records(answer: &Answer) -> Vec<Value> {
    let header = answer.header("X-Nuclio-Logs").unwrap_or_else(|| panic!("no logs with {}", answer.text()));
    assert!(header.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{header}");
    assert!(header.len() < 4096);
    let records: Vec<Value> =
        serde_json::from_str(header).unwrap_or_else(|error| panic!("{error}: {header}"));
    for record in &records {
        assert!(record["message"].is_string() && record["level"].is_string(), "{record}");
    }
    records
}

#[test]
fn a_function_deployed_as_nuctl_does_it_answers_the_first_call_and_returns_its_logs() {
    let Some(image) = image() else { return };
    let more = json!({"eventTimeout": "1s"});
    let function = Function::deploy(&image, more, "0", &["--env", "GREETING=hello"]);
    function.container.wait_healthy();
    println!("healthy {:?} after docker run", function.container.started.elapsed());
    let answer = function.invoke("//x", "info", "");
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello /x"));
    let messages: Vec<String> =
        records(&answer).iter().map(|record| record["message"].as_str().unwrap().to_owned()).collect();
    assert_eq!(messages, ["Handling événement", "careful"]);
    assert_eq!(records(&function.invoke("/", "warn", "")).len(), 1);
    assert!(records(&function.invoke("/", "error", "")).is_empty());
    assert_eq!(records(&function.invoke("/", "debug", "body")).len(), 3);
    // Whatever becomes of the event.
    let answer = function.invoke("/raise", "info", "");
    assert_eq!(answer.status, 500);
    assert!(records(&answer).len() >= 2);
    let flood = records(&function.invoke("/flood", "info", ""));
    assert!(flood.len() > 2 && flood.len() < 200, "{}", flood.len());
    assert_eq!(function.invoke("/slow", "info", "").status, 408);
    records(&function.invoke("/slow", "info", ""));
    let answer = function.invoke("/", "info", &"x".repeat(5 << 20));
    assert_eq!(answer.status, 413);
    records(&answer);
}

#[test]
fn a_configuration_that_is_written_late_is_waited_for() {
    let Some(image) = image() else { return };
    let function = Function::deploy(&image, json!({}), "0.5", &[]);
    function.container.wait_healthy();
    assert_eq!(function.invoke("/late", "info", "").text(), "none /late");
}

#[test]
#[ignore = "with scripts/test --full"]
fn health_stays_true_while_every_worker_is_busy() {
    let Some(image) = image() else { return };
    let function = Function::deploy(&image, json!({}), "0", &[]);
    function.container.wait_healthy();
    let port = function.container.port();
    let slow = std::thread::spawn(move || ask(port, "GET", "/slow", "", "").unwrap().status);
    let begun = Instant::now();
    let mut asked = 0;
    while begun.elapsed() < Duration::from_millis(2500) {
        let probe = ["/usr/local/bin/uhttpc", "--url", "http://127.0.0.1:8082/ready"];
        assert_eq!(function.container.exec(&probe), (Some(0), String::new()));
        asked += 1;
    }
    assert!(asked > 2);
    assert_eq!(function.container.health(), "healthy");
    assert_eq!(slow.join().unwrap(), 200);
}

#[test]
fn a_redeploy_by_kill_serves_again_on_the_same_port_and_a_delete_leaves_nothing() {
    let Some(image) = image() else { return };
    let mut function = Function::deploy(&image, json!({}), "0", &["--env", "GREETING=first"]);
    function.container.wait_healthy();
    assert_eq!(function.invoke("/", "none", "").text(), "first /");
    // The old one is killed with an event in work.
    let port = function.container.port();
    let lost = std::thread::spawn(move || ask(port, "GET", "/slow", "", "").is_err());
    std::thread::sleep(Duration::from_millis(300));
    let name = format!("nuclio-nuclio-{}", function.name);
    let found = docker(&["ps", "--quiet", "--all", "--no-trunc", "--filter", &format!("name=^/{name}$")]);
    assert_eq!(found, function.container.inspect("{{.Id}}"));
    docker(&["rm", "--force", &found]);
    assert!(lost.join().unwrap());
    let publish = format!("{port}:8080");
    function.container =
        start(&name, &function.name, &image, &["--publish", &publish, "--env", "GREETING=second"]);
    function.container.wait_healthy();
    assert_eq!(function.container.port(), port);
    assert_eq!(function.invoke("/", "none", "").text(), "second /");
    // nuctl delete
    let label = format!("label=nuclio.io/function-name={}", function.name);
    let filters =
        ["--filter", "label=nuclio.io/platform=local", "--filter", "label=nuclio.io/namespace=nuclio"];
    let list = [&["ps", "--quiet", "--all", "--no-trunc"], &filters[..], &["--filter", &label]].concat();
    let found = docker(&list);
    assert_eq!(found, function.container.inspect("{{.Id}}"));
    docker(&["rm", "--force", &found]);
    docker(&["volume", "rm", "--force", &name]);
    assert_eq!(docker(&list), "");
    assert!(!succeeds(&["volume", "inspect", &name]));
}

#[test]
fn a_function_that_cannot_start_exits_by_itself_and_its_last_words_say_why() {
    let Some(image) = image() else { return };
    for (more, cause) in [
        (json!({"handler": "main:absent"}), "absent"),
        (json!({"handler": "absent_module:handler"}), "absent_module"),
        (json!({"triggers": {"q": {"kind": "no-such-kind"}}}), "no-such-kind"),
        (json!({"eventTimeout": "soon"}), "eventTimeout"),
    ] {
        let begun = Instant::now();
        let function = Function::deploy(&image, more, "0", &[]);
        assert_eq!(function.container.wait_exit(), 1, "{cause}");
        println!("{cause}: ended {:?} after the deploy began", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(30), "only an exit ends the wait early");
        let logs = function.container.logs();
        assert!(logs.contains(cause), "{logs}");
    }
    // No configuration will ever come: the volume stays empty.
    let name = unique("empty");
    let _volume = Volume::create(&name);
    let container = start(&name, &name, &image, &[]);
    assert_eq!(container.wait_exit(), 1);
    assert!(container.logs().contains("/etc/nuclio/config/processor/processor.yaml"), "{}", container.logs());
}

/// What `nuctl build` knows of a runtime.
struct Runtime {
    name: &'static str,
    /// In `scripts/images`.
    image: &'static str,
    onbuild: &'static str,
    base: &'static str,
    /// Paths that are copied out of the onbuild image, and where they go.
    artifacts: &'static [(&'static str, &'static str)],
    /// Whether the sources go into the function's image too.
    copied: bool,
    directives: &'static str,
}

const PROCESSOR: (&str, &str) = ("/home/nuclio/bin/processor", "/usr/local/bin/processor");

const RUNTIMES: [Runtime; 7] = [
    Runtime {
        name: "python",
        image: "python",
        onbuild: "handler-builder-python-onbuild:latest-amd64",
        base: "python",
        artifacts: &[
            PROCESSOR,
            ("/home/nuclio/bin/py", "/opt/nuclio/"),
            ("/home/nuclio/bin/py3.11-whl", "/opt/nuclio/whl"),
        ],
        copied: true,
        directives: "RUN python /opt/nuclio/whl/$(basename /opt/nuclio/whl/pip-*.whl)/pip install pip --no-index \
                     --find-links /opt/nuclio/whl && python -m pip install nuclio-sdk msgpack --no-index \
                     --find-links /opt/nuclio/whl\n",
    },
    Runtime {
        name: "golang",
        image: "golang-alpine",
        onbuild: "handler-builder-golang-onbuild:latest-amd64-alpine",
        base: "musl",
        artifacts: &[PROCESSOR, ("/home/nuclio/bin/handler.so", "/opt/nuclio/handler.so")],
        copied: false,
        directives: "",
    },
    Runtime {
        name: "nodejs",
        image: "nodejs",
        onbuild: "handler-builder-nodejs-onbuild:latest-amd64",
        base: "node",
        artifacts: &[PROCESSOR, ("/home/nuclio/bin/wrapper.js", "/opt/nuclio/wrapper.js")],
        copied: true,
        directives: "ENV NODE_PATH=/usr/local/lib/node_modules\n",
    },
    Runtime {
        name: "ruby",
        image: "ruby",
        onbuild: "handler-builder-ruby-onbuild:latest-amd64",
        base: "ruby",
        artifacts: &[PROCESSOR, ("/home/nuclio/bin/wrapper.rb", "/opt/nuclio/wrapper.rb")],
        copied: true,
        directives: "",
    },
    Runtime {
        name: "shell",
        image: "processor",
        onbuild: "processor:latest-amd64",
        base: "musl",
        artifacts: &[PROCESSOR],
        copied: true,
        directives: "",
    },
    Runtime {
        name: "dotnetcore",
        image: "dotnetcore",
        onbuild: "handler-builder-dotnetcore-onbuild:latest-amd64",
        base: "dotnet",
        artifacts: &[
            PROCESSOR,
            ("/home/nuclio/bin/wrapper", "/opt/nuclio/wrapper"),
            ("/home/nuclio/bin/handler", "/opt/nuclio/handler"),
            ("/home/nuclio/src/nuclio-sdk-dotnetcore", "/opt/nuclio/nuclio-sdk-dotnetcore"),
        ],
        copied: false,
        directives: "",
    },
    Runtime {
        name: "java",
        image: "java",
        onbuild: "handler-builder-java-onbuild:latest-amd64",
        base: "java",
        artifacts: &[
            ("/home/gradle/bin/processor", "/usr/local/bin/processor"),
            (
                "/home/gradle/src/wrapper/build/libs/nuclio-java-wrapper.jar",
                "/opt/nuclio/nuclio-java-wrapper.jar",
            ),
        ],
        copied: false,
        directives: "",
    },
];

/// `nuctl build`: artifacts out of containers that never start, and an image made of them; or what the builder of the
/// function said. Files are named as they lie in the folder of the handler.
fn build(runtime: &Runtime, files: &[(&str, &str)]) -> Result<Image, String> {
    ["uhttpc", runtime.image].iter().for_each(|name| docker::image(name));
    let files: Vec<_> = files.iter().map(|(name, text)| (format!("handler/{name}"), *text)).collect();
    let staging = folder(&files.iter().map(|(name, text)| (name.as_str(), *text)).collect::<Vec<_>>());
    let path = |name: &str| staging.path().join(name).display().to_string();
    std::fs::create_dir(path("artifacts")).unwrap();
    let step = |file: &str, text: String| {
        std::fs::write(path(file), text).unwrap();
        let options = ["--network", "host", "--file", &path(file)];
        let build = Build::of(staging.path()).option(&options).arg("NUCLIO_LABEL", "latest");
        let build = build.arg("NUCLIO_ARCH", "amd64").arg("NUCLIO_BUILD_LOCAL_HANDLER_DIR", "handler");
        build.try_run().expect("the classic builder is always there")
    };
    let onbuild = |image: &str| {
        step("Dockerfile.onbuild", format!("FROM {image}\nARG NUCLIO_LABEL\nARG NUCLIO_ARCH\n"))
    };
    let mut copied = String::new();
    let mut copy = |image: &str, from: &str, to: &str| {
        let name = from.rsplit('/').next().unwrap();
        let container = Container::of(docker(&["create", image, "/bin/sh"]));
        docker(&["cp", &format!("{}:{from}", container.name), &path(&format!("artifacts/{name}"))]);
        let metadata = std::fs::symlink_metadata(path(&format!("artifacts/{name}"))).unwrap();
        assert!(!metadata.is_symlink(), "{from}");
        copied += &format!("COPY artifacts/{name} {to}\n");
    };
    let probe = "quay.io/nuclio/uhttpc:0.0.1-amd64";
    // Copied from directly, and built once more.
    copy(probe, "/home/nuclio/bin/uhttpc", "/usr/local/bin/uhttpc");
    drop(onbuild(probe)?);
    let supplier = onbuild(&format!("quay.io/nuclio/{}", runtime.onbuild))?;
    for (from, to) in runtime.artifacts {
        copy(&supplier.name, from, to);
    }
    let handlers = if runtime.copied { "COPY handler /opt/nuclio\n" } else { "" };
    let dockerfile = format!(
        "FROM {}\nARG NUCLIO_LABEL\nARG NUCLIO_ARCH\nARG NUCLIO_BUILD_LOCAL_HANDLER_DIR\n{copied}{handlers}\
         HEALTHCHECK --interval=1s --timeout=3s CMD /usr/local/bin/uhttpc --url http://127.0.0.1:8082/ready || exit 1\n\
         {}CMD [ \"processor\" ]\n",
        base(runtime.base),
        runtime.directives
    );
    step("Dockerfile.processor", dockerfile)
}

/// Deploys an image of that runtime and calls it once, as `nuctl invoke` does right after a deploy.
fn first_answer(image: &Image, runtime: &str, handler: &str) -> String {
    base("musl");
    let function = Function::deploy(image, json!({"runtime": runtime, "handler": handler}), "0", &[]);
    function.container.wait_healthy();
    let answer = function.invoke("/a", "info", "");
    assert_eq!(answer.status, 200, "{runtime}: {}\n{}", answer.text(), function.container.logs());
    records(&answer);
    answer.text().trim_end().to_owned()
}

/// `build.gradle` as `nuctl` writes it into the folder of a Java function that depends on something.
const GRADLE: &str = "plugins {\n  id 'com.github.johnrengelman.shadow' version '5.2.0'\n  id 'java'\n}\n\n\
    repositories {\n\t\n\tmavenCentral()\n\t\n}\n\n\
    dependencies {\n\t\n\tcompile group: 'com.google.code.gson', name: 'gson', version: '2.10.1'\n\t\n\n    \
    compile files('./nuclio-sdk-java-1.1.0.jar')\n}\n\n\
    shadowJar {\n   baseName = 'user-handler'\n   classifier = null  // no suffix\n}\n\n\
    task userHandler(dependsOn: shadowJar)\n";

const USES_GSON: &str = "import io.nuclio.*;\nimport com.google.gson.Gson;\n\n\
    public class Greeter implements EventHandler {\n    \
    public Response handleEvent(Context context, Event event) {\n        \
    return new Response().setBody(new Gson().toJson(event.getPath()));\n    }\n}\n";

#[test]
#[ignore = "with scripts/test --full"]
fn images_built_from_artifacts_as_nuctl_does_it_answer() {
    if !available() {
        return;
    }
    for (name, file, source, handler) in [
        ("python", "main.py", include_str!("../../examples/docker/python/main.py"), "main:handler"),
        ("golang", "handler.go", include_str!("../../examples/docker/golang/handler.go"), "main:Handler"),
        ("nodejs", "handler.js", include_str!("../../examples/docker/nodejs/handler.js"), "handler:handler"),
        ("ruby", "handler.rb", include_str!("../../examples/docker/ruby/handler.rb"), "handler:handler"),
        ("shell", "handler.sh", include_str!("../../examples/docker/shell/handler.sh"), "handler.sh:main"),
        (
            "dotnetcore",
            "handler.cs",
            include_str!("../../examples/docker/dotnetcore/handler.cs"),
            "Function:Handler",
        ),
    ] {
        let runtime = RUNTIMES.iter().find(|runtime| runtime.name == name).unwrap();
        let image = build(runtime, &[(file, source)]).unwrap_or_else(|said| panic!("{said}"));
        assert_eq!(first_answer(&image, name, handler), format!("Hello from {name}"));
    }
}

#[test]
#[ignore = "with scripts/test --full"]
fn a_java_function_with_the_dependencies_that_nuctl_writes_down_is_built() {
    if !available() {
        return;
    }
    let runtime = RUNTIMES.iter().find(|runtime| runtime.name == "java").unwrap();
    let files = [("src/main/java/Greeter.java", USES_GSON), ("build.gradle", GRADLE)];
    let image = match build(runtime, &files) {
        Ok(image) => image,
        Err(said) if ["Could not transfer", "Unknown host"].iter().any(|text| said.contains(text)) => {
            println!("skipped: Maven Central cannot be reached");
            return;
        }
        Err(said) => panic!("{said}"),
    };
    assert_eq!(first_answer(&image, "java", "Greeter"), "\"/a\"");
}
