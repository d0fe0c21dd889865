//! `examples/compose`: replicas behind a real proxy are replaced one by one under load, and no request is lost.

use std::collections::BTreeMap;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::docker::{self, available, base, docker, folder, root, unique};
use crate::habits::{ask, succeeds};

const HANDLER: &str =
    "import time\ndef handler(context, event):\n    time.sleep(0.02)\n    return 'VERSION'\n";
/// Clients that send one request after the other, one connection each.
const CLIENTS: usize = 4;

/// The example with a function of the test's.
struct Project {
    environment: Vec<(&'static str, String)>,
    function: tempfile::TempDir,
    port: u16,
}

impl Project {
    fn new() -> Self {
        let dockerfile = std::fs::read_to_string(root().join("examples/docker/python/Dockerfile")).unwrap();
        let dockerfile =
            dockerfile.replace("NUCLIO_BASE_IMAGE=python:3.11", "NUCLIO_BASE_IMAGE=nuclio-base:python");
        let config = include_str!("../../examples/docker/python/function.yaml");
        let function = folder(&[("Dockerfile", &dockerfile), ("function.yaml", config), ("main.py", "")]);
        let name = unique("compose");
        // Free a moment ago; nobody else of this run asks for one.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let environment = vec![
            ("FUNCTION_DIR", function.path().display().to_string()),
            ("FUNCTION_IMAGE", format!("{name}-function")),
            ("PROXY_IMAGE", "nuclio-base:haproxy".to_owned()),
            ("PORT", port.to_string()),
            ("COMPOSE_PROJECT_NAME", name),
            // The classic builder is there without a plugin.
            ("DOCKER_BUILDKIT", "0".to_owned()),
            ("COMPOSE_DOCKER_CLI_BUILD", "0".to_owned()),
        ];
        Self { environment, function, port }
    }

    fn write(&self, version: &str) {
        std::fs::write(self.function.path().join("main.py"), HANDLER.replace("VERSION", version)).unwrap();
    }

    fn output(&self, program: &[&str], arguments: &[&str]) -> Output {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).args(arguments).current_dir(root().join("examples/compose"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        command.output().unwrap()
    }

    fn run(&self, program: &[&str], arguments: &[&str]) -> String {
        let output = self.output(program, arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program:?} {arguments:?}:\n{said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// The tool in either of its forms; `None`: it is not installed.
fn compose() -> Option<&'static [&'static str]> {
    let works = |program: &&'static [&'static str]| {
        let mut version = Command::new(program[0]);
        version.args(&program[1..]).arg("version").stdout(Stdio::null()).stderr(Stdio::null());
        version.status().is_ok_and(|status| status.success())
    };
    [&["docker", "compose"][..], &["docker-compose"]].into_iter().find(works)
}

/// Removes everything, whatever became of the test.
struct Cleanup<'a>(&'a Project, &'a [&'a str]);

impl Drop for Cleanup<'_> {
    fn drop(&mut self) {
        self.0.output(self.1, &["down", "--timeout", "1", "--volumes", "--remove-orphans"]);
        succeeds(&["rmi", "--force", &self.0.environment[1].1]);
    }
}

/// What a client was answered, and how often.
type Answers = BTreeMap<String, usize>;

/// Sends one request after the other until it is told that it is over; one without a 200 is kept as it is.
fn client(port: u16, over: &AtomicBool) -> Answers {
    let mut answers = Answers::new();
    while !over.load(Ordering::Relaxed) {
        let answer = match ask(port, "POST", "/", "", "event") {
            Err(error) => format!("no answer: {error}"),
            Ok(answer) if answer.status == 200 => answer.text(),
            Ok(answer) => format!("{}: {}", answer.status, answer.text()),
        };
        *answers.entry(answer).or_default() += 1;
    }
    answers
}

#[test]
#[ignore = "with scripts/test --full"]
fn replicas_behind_a_proxy_are_replaced_under_load_and_no_request_is_lost() {
    let Some(compose) = compose() else {
        return println!("skipped: neither docker compose nor docker-compose");
    };
    if !available() {
        return;
    }
    ["python", "haproxy"].iter().for_each(|name| drop(base(name)));
    ["uhttpc", "python"].iter().for_each(|name| docker::image(name));
    let project = Project::new();
    let _cleanup = Cleanup(&project, compose);
    project.write("old");
    project.run(compose, &["up", "-d", "--build", "--scale", "function=3"]);
    let begun = Instant::now();
    // The proxy answers 503 as long as it knows no replica.
    while ask(project.port, "GET", "/", "", "").map_or(true, |answer| answer.status != 200) {
        assert!(begun.elapsed() < Duration::from_secs(60), "no replica answers through the proxy");
        std::thread::sleep(Duration::from_millis(100));
    }
    let before = project.run(compose, &["ps", "-q", "function"]);
    assert_eq!(before.lines().count(), 3);
    project.write("new");
    project.run(compose, &["build", "function"]);
    let over = AtomicBool::new(false);
    let answers: Vec<Answers> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| client(project.port, &over))).collect();
        let rolled = project.output(&["./roll"], &[]);
        over.store(true, Ordering::Relaxed);
        assert!(rolled.status.success(), "{}", String::from_utf8_lossy(&rolled.stderr));
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let mut all = Answers::new();
    for (answer, count) in answers.into_iter().flatten() {
        *all.entry(answer).or_default() += count;
    }
    println!("answers while three replicas were replaced: {all:?}");
    let words: Vec<&str> = all.keys().map(String::as_str).collect();
    assert_eq!(words, ["new", "old"], "every request was answered, by an old replica or a new one");
    let after = project.run(compose, &["ps", "-q", "function"]);
    assert_eq!(after.lines().count(), 3);
    assert!(after.lines().all(|container| !before.contains(container)), "all of them were replaced");
    for _ in 0..6 {
        assert_eq!(ask(project.port, "GET", "/", "", "").unwrap().text(), "new");
    }
    for container in after.lines() {
        assert_eq!(docker(&["inspect", "--format", "{{.State.Health.Status}}", container]), "healthy");
    }
}
