//! The engine, images and containers, by the client that users have. Everything a test makes has a name of its own and
//! goes with the test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Answer, get, merge};

/// For steps of the engine, which is slow where the machine is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// On everything made here; `scripts/engine clean` removes what a killed run has left.
const LABEL: &str = "nuclio.test";

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether there is an engine, started if need be; says why not.
pub fn available() -> bool {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    let started = STARTED.get_or_init(|| {
        let output = Command::new(root().join("scripts/engine")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(()) } else { Err(said.lines().last().unwrap_or_default().to_owned()) }
    });
    if let Err(reason) = started {
        println!("skipped: {reason}");
    }
    started.is_ok()
}

/// What is made once per run, whoever asks first.
type Once = Arc<OnceLock<()>>;

fn once(what: &str, make: impl FnOnce()) {
    static ALL: OnceLock<Mutex<BTreeMap<String, Once>>> = OnceLock::new();
    let one = ALL.get_or_init(Mutex::default).lock().unwrap().entry(what.to_owned()).or_default().clone();
    one.get_or_init(make);
}

/// A base image made of Debian's packages, by its name in `scripts/engine`.
pub fn base(name: &str) -> String {
    once(&format!("base {name}"), || {
        let output = Command::new(root().join("scripts/engine")).args(["base", name]).output().unwrap();
        assert!(output.status.success(), "base image {name}: {}", text(&output));
    });
    format!("nuclio-base:{name}")
}

/// Where the programs are that images are made of: those of `scripts/dist` in a full run, unoptimized ones otherwise.
pub fn binaries() -> PathBuf {
    if std::env::var_os("ENGINE_TESTS_RELEASE").is_some() {
        return root().join("dist");
    }
    let folder = root().join("target/dist/debug");
    once("programs", || {
        for part in ["--debug", "--probe"] {
            let output = Command::new(root().join("scripts/dist")).arg(part).output().unwrap();
            assert!(output.status.success(), "scripts/dist {part}: {}", text(&output));
        }
        std::fs::copy(root().join("dist/uhttpc"), folder.join("uhttpc")).unwrap();
    });
    folder
}

/// One of our images, by its name in `scripts/images`, on a base that was made here.
pub fn image(name: &str) {
    once(&format!("image {name}"), || {
        let mut command = Command::new(root().join("scripts/images"));
        command.arg("--binaries").arg(binaries()).arg(name);
        let on = match name {
            "golang" => Some("go"),
            "golang-alpine" => Some("go-musl"),
            "java" => Some("jdk"),
            "dotnetcore" => Some("dotnet"),
            _ => None,
        };
        if let Some(on) = on {
            command.args(["--base", &format!("{name}={}", base(on))]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "image {name}: {}", text(&output));
    });
}

/// Both streams of a command.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Standard output of a call of the client that must succeed.
pub fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    assert!(output.status.success(), "docker {arguments:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A name that no other test has, this run or another.
pub fn unique(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("nuclio-test-{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Who builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builder {
    Classic,
    BuildKit,
}

impl Builder {
    /// The client that has it; `None`: there is none here. A newer client does BuildKit only with a plugin, Debian's by itself.
    fn client(self) -> Option<Command> {
        let has_plugin = || {
            let mut asked = Command::new("docker");
            asked.args(["buildx", "version"]).stdout(Stdio::null()).stderr(Stdio::null());
            asked.status().is_ok_and(|status| status.success())
        };
        let mut command = match self {
            Self::Classic => Command::new("docker"),
            Self::BuildKit if has_plugin() => Command::new("docker"),
            Self::BuildKit => {
                let version = Command::new("/usr/bin/docker").arg("--version").output().ok()?;
                if !text(&version).contains("version 20.") {
                    return None;
                }
                Command::new("/usr/bin/docker")
            }
        };
        command.env("DOCKER_BUILDKIT", if self == Self::Classic { "0" } else { "1" });
        Some(command)
    }
}

/// What the classic builder says when a layer of its cache goes, with another test's image, while it builds on it.
const LAYER_GONE: &str = "unknown parent image ID";

/// A build of a user's folder.
pub struct Build {
    folder: PathBuf,
    builder: Builder,
    arguments: Vec<String>,
}

impl Build {
    pub fn of(folder: impl AsRef<Path>) -> Self {
        Self { folder: folder.as_ref().to_owned(), builder: Builder::Classic, arguments: Vec::new() }
    }

    pub fn with(mut self, builder: Builder) -> Self {
        self.builder = builder;
        self
    }

    pub fn option(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    pub fn arg(self, name: &str, value: &str) -> Self {
        self.option(&["--build-arg", &format!("{name}={value}")])
    }

    /// The image, or what the builder said. `None`: this builder is not here.
    pub fn try_run(self) -> Option<Result<Image, String>> {
        let Some(mut command) = self.builder.client() else {
            println!("skipped: no client with BuildKit");
            return None;
        };
        let name = unique("image");
        command
            .args(["build", "--force-rm", "--label", LABEL, "--tag", &name])
            .args(&self.arguments)
            .arg(&self.folder);
        let mut output = command.output().unwrap();
        if text(&output).contains(LAYER_GONE) {
            output = command.output().unwrap();
        }
        Some(if output.status.success() {
            Ok(Image { name, said: text(&output) })
        } else {
            Err(text(&output))
        })
    }

    pub fn run(self) -> Image {
        self.try_run().expect("the classic builder is always there").unwrap_or_else(|said| panic!("{said}"))
    }
}

/// An image that goes with its test.
pub struct Image {
    pub name: String,
    /// What the builder said.
    pub said: String,
}

impl Image {
    /// A container of it that serves this function, which is merged with one HTTP trigger of one worker.
    pub fn function(&self, function: Value) -> Run {
        let mut whole = json!({
            "metadata": {"name": "tested", "namespace": "nuclio"},
            "spec": {"triggers": {"http": {"kind": "http", "numWorkers": 1}}},
        });
        merge(&mut whole, function);
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("processor.yaml"), whole.to_string()).unwrap();
        // Any user must be able to read it, whoever runs the test.
        let path = directory.path().display().to_string();
        let status = Command::new("chmod").args(["-R", "a+rX", &path]).status().unwrap();
        assert!(status.success());
        Run::new(&self.name)
            .option(&["--volume", &format!("{path}:/etc/nuclio/config/processor:ro")])
            .keep(directory)
    }

    pub fn size(&self) -> u64 {
        docker(&["image", "inspect", "-f", "{{.Size}}", &self.name]).parse().unwrap()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        remove(&["rmi", "-f", &self.name]);
    }
}

fn remove(arguments: &[&str]) {
    let mut command = Command::new("docker");
    // What is gone already is as good as removed.
    drop(command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status());
}

/// A container about to be run.
pub struct Run {
    image: String,
    options: Vec<String>,
    command: Vec<String>,
    directory: Option<TempDir>,
}

impl Run {
    pub fn new(image: &str) -> Self {
        Self { image: image.to_owned(), options: Vec::new(), command: Vec::new(), directory: None }
    }

    pub fn option(mut self, arguments: &[&str]) -> Self {
        self.options.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Instead of the image's own.
    pub fn command(mut self, arguments: &[&str]) -> Self {
        self.command = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self
    }

    fn keep(mut self, directory: TempDir) -> Self {
        self.directory = Some(directory);
        self
    }

    /// Starts it without its configuration, which comes after that time.
    pub fn start_late(self, after: Duration) -> Container {
        let path = self.directory.as_ref().unwrap().path().join("processor.yaml");
        let text = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let container = self.start();
        std::thread::sleep(after);
        std::fs::write(path, text).unwrap();
        container
    }

    pub fn start(self) -> Container {
        let name = unique("container");
        let container = Container { name, _directory: self.directory, started: Instant::now() };
        let mut command = Command::new("docker");
        command.args([
            "run",
            "--detach",
            "--label",
            LABEL,
            "--publish",
            "127.0.0.1::8080",
            "--name",
            &container.name,
        ]);
        let output = command.args(&self.options).arg(&self.image).args(&self.command).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        container
    }
}

/// A container that goes with its test.
pub struct Container {
    pub name: String,
    /// Its configuration, which stays as long as it does.
    _directory: Option<TempDir>,
    pub started: Instant,
}

impl Container {
    /// One that somebody else has just made, by its name or id.
    pub fn of(name: String) -> Self {
        Self { name, _directory: None, started: Instant::now() }
    }

    pub fn inspect(&self, what: &str) -> String {
        docker(&["inspect", "-f", what, &self.name])
    }

    pub fn health(&self) -> String {
        self.inspect("{{if .State.Health}}{{.State.Health.Status}}{{end}}")
    }

    /// Waits until it is healthy, as `nuctl` does; one that has ended shows its log.
    pub fn wait_healthy(&self) {
        self.wait_for("it is healthy", || {
            assert_eq!(self.inspect("{{.State.Status}}"), "running", "{}", self.logs());
            self.health() == "healthy"
        });
    }

    /// Waits until it has ended by itself; its exit code.
    pub fn wait_exit(&self) -> i32 {
        self.wait_for("it ends", || self.inspect("{{.State.Status}}") == "exited");
        self.inspect("{{.State.ExitCode}}").parse().unwrap()
    }

    pub fn wait_for(&self, what: &str, mut test: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !test() {
            assert!(begin.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The published port.
    pub fn port(&self) -> u16 {
        let published = docker(&["port", &self.name, "8080/tcp"]);
        published.lines().next().unwrap().rsplit(':').next().unwrap().parse().unwrap()
    }

    pub fn get(&self, path: &str) -> Answer {
        get(self.port(), path).unwrap_or_else(|error| panic!("{path}: {error}\n{}", self.logs()))
    }

    /// Both streams.
    pub fn logs(&self) -> String {
        text(&Command::new("docker").args(["logs", &self.name]).output().unwrap())
    }

    /// Runs something in it, with its exit code and output.
    pub fn exec(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = Command::new("docker").args(["exec", &self.name]).args(arguments).output().unwrap();
        (output.status.code(), text(&output))
    }

    /// The processes in it, as the machine sees them: state and name of each, by pid.
    pub fn processes(&self) -> BTreeMap<i32, (char, String)> {
        let first: i32 = self.inspect("{{.State.Pid}}").parse().unwrap();
        let mut found = BTreeMap::new();
        let mut open = BTreeSet::from([first]);
        while let Some(pid) = open.pop_first() {
            let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            let (Some(open_at), Some(close_at)) = (stat.find('('), stat.rfind(')')) else { continue };
            let state = stat[close_at + 2..].chars().next().unwrap();
            found.insert(pid, (state, stat[open_at + 1..close_at].to_owned()));
            open.extend(crate::harness::children_of(pid as u32));
        }
        found
    }

    /// Processes that have ended and that nobody has asked after.
    pub fn zombies(&self) -> Vec<String> {
        let all = self.processes().into_values();
        all.filter(|(state, _)| *state == 'Z').map(|(_, name)| name).collect()
    }

    /// Stops it as an engine does; how long that took, and the exit code.
    pub fn stop(&self) -> (Duration, i32) {
        let begin = Instant::now();
        docker(&["stop", &self.name]);
        (begin.elapsed(), self.inspect("{{.State.ExitCode}}").parse().unwrap())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("---- log of {}\n{}\n----", self.name, self.logs());
        }
        remove(&["rm", "-f", "-v", &self.name]);
    }
}

/// A folder of a function: these files.
pub fn folder(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, contents) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, contents).unwrap();
    }
    directory
}

/// A Python function of this source, on the image that most tests use: without the wheels, which no test of them needs.
pub fn python(source: &str) -> Image {
    image("python");
    image("uhttpc");
    let dockerfile = format!(
        "FROM nuclio/uhttpc:0.0.1-amd64 as uhttpc\n\
         FROM nuclio/handler-builder-python-onbuild:latest-amd64 as processor\n\
         FROM {}\n\
         COPY --from=processor /home/nuclio/bin/processor /usr/local/bin/processor\n\
         COPY --from=processor /home/nuclio/bin/py /opt/nuclio/\n\
         COPY --from=uhttpc /home/nuclio/bin/uhttpc /usr/local/bin/uhttpc\n\
         COPY main.py /opt/nuclio/\n\
         HEALTHCHECK --interval=1s --timeout=3s \
         CMD /usr/local/bin/uhttpc --url http://127.0.0.1:8082/ready || exit 1\n\
         CMD [ \"processor\" ]\n",
        base("python")
    );
    Build::of(folder(&[("Dockerfile", &dockerfile), ("main.py", source)]).path()).run()
}

/// The function that goes with it.
pub fn python_function() -> Value {
    json!({"spec": {"runtime": "python", "handler": "main:handler"}})
}
