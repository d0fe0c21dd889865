//! What users' images do that no blueprint does: entry points and folders of their own, old labels, configuration in
//! the image.

use std::io;
use std::process::{Command, Stdio};

use crate::docker::{self, Build, Container, Image, Run, available, base, docker, folder, root, unique};
use crate::harness::{Answer, Client};

/// One request on a connection of its own; `headers` are whole lines.
pub fn ask(port: u16, method: &str, path: &str, headers: &str, body: &str) -> io::Result<Answer> {
    let mut client = Client::over(std::net::TcpStream::connect(("127.0.0.1", port))?);
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}{length}\r\n");
    client.send(head.as_bytes());
    client.send(body.as_bytes());
    client.read_answer(method == "HEAD")
}

/// Whether a call of the engine's client succeeds.
pub fn succeeds(arguments: &[&str]) -> bool {
    let mut command = Command::new("docker");
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A volume that goes with its test.
pub struct Volume(pub String);

impl Volume {
    pub fn create(name: &str) -> Self {
        docker(&["volume", "create", name]);
        Self(name.to_owned())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        succeeds(&["volume", "rm", "--force", &self.0]);
    }
}

/// The blueprint of Python, with lines before its `COPY . /opt/nuclio` and after its end.
fn dockerfile(before: &str, after: &str) -> String {
    let text = std::fs::read_to_string(root().join("examples/docker/python/Dockerfile")).unwrap();
    let copy = "COPY . /opt/nuclio\n";
    assert!(text.contains(copy));
    text.replace(copy, &format!("{before}{copy}")) + after
}

const HANDLER: &str =
    "import sys\ndef handler(context, event):\n    return sys.executable + ' ' + open('data.txt').read()\n";
const FUNCTION: &str = include_str!("../../examples/docker/python/function.yaml");

/// Whether there is an engine; makes what the blueprint of Python is built from.
fn ready() -> bool {
    let ready = available();
    if ready {
        base("python");
        ["uhttpc", "python"].iter().for_each(|name| docker::image(name));
    }
    ready
}

fn build(files: &[(&str, &str)]) -> Image {
    Build::of(folder(files).path()).arg("NUCLIO_BASE_IMAGE", &base("python")).run()
}

/// Runs an image with the blueprint's configuration mounted as its users do, and asks it once.
fn answer(image: &Image, mounted: bool) -> (Container, String) {
    let path = root().join("examples/docker/python/function.yaml");
    let mount = format!("{}:/etc/nuclio/config/processor/processor.yaml:ro", path.display());
    let run = Run::new(&image.name);
    let container = if mounted { run.option(&["--volume", &mount]) } else { run }.start();
    container.wait_healthy();
    let answer = container.get("/");
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), container.logs());
    (container, answer.text())
}

/// Real conda is in no package index: this is what `conda run` does to the program that it runs. It becomes the child
/// of a shell that has set up the environment, which is the child of conda.
const CONDA: &str = r#"#!/bin/sh
# conda run [--no-capture-output] -n NAME PROGRAM...
[ "$1" = run ] && shift
[ "$1" = --no-capture-output ] && shift
[ "$1" = -n ] && name=$2 && shift 2
cat >/tmp/run.sh <<END
PATH=/opt/conda/envs/$name/bin:$PATH
export PATH
$*
exit \$?
END
sh /tmp/run.sh
exit $?
"#;

#[test]
#[ignore = "with scripts/test --full"]
fn conda_run_as_entry_point_has_the_environments_interpreter_found_by_path() {
    if !ready() {
        return;
    }
    for entry in
        [r#"["conda", "run", "-n", "model"]"#, r#"["conda", "run", "--no-capture-output", "-n", "model"]"#]
    {
        let before = "COPY conda /usr/local/bin/conda\nRUN mkdir -p /opt/conda/envs/model/bin && \
                      ln -s /usr/bin/python3.11 /opt/conda/envs/model/bin/python3 && rm /usr/bin/python3 && \
                      chmod 755 /usr/local/bin/conda\nWORKDIR /opt/nuclio\n";
        let files = [
            ("Dockerfile", dockerfile(before, &format!("ENTRYPOINT {entry}\n"))),
            ("conda", CONDA.to_owned()),
            ("main.py", HANDLER.to_owned()),
            ("data.txt", "weights".to_owned()),
        ];
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let image = build(&files);
        let (container, body) = answer(&image, true);
        assert_eq!(body, "/opt/conda/envs/model/bin/python3 weights");
        let first = container.exec(&["cat", "/proc/1/cmdline"]).1.replace('\0', " ");
        assert!(first.contains("conda run"), "{first}");
        // It is no process 1, and is stopped by a signal of its own all the same; then its parents end with its code.
        let stop = "kill -TERM $(for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" = processor ] && echo ${p#/proc/}; done)";
        assert_eq!(container.exec(&["sh", "-c", stop]), (Some(0), String::new()));
        assert_eq!(container.wait_exit(), 0);
    }
}

#[test]
#[ignore = "with scripts/test --full"]
fn handlers_run_in_the_working_directory_of_the_image() {
    if !ready() {
        return;
    }
    for directory in ["/opt/nuclio/sam", "/srv/model"] {
        let after = format!("WORKDIR {directory}\nRUN printf beside >data.txt\n");
        let image = build(&[("Dockerfile", &dockerfile("", &after)), ("main.py", HANDLER)]);
        assert!(answer(&image, true).1.ends_with(" beside"), "{directory}");
    }
}

#[test]
#[ignore = "with scripts/test --full"]
fn old_labels_of_onbuild_images_are_build_arguments() {
    if !ready() {
        return;
    }
    let tag = |label: &str| format!("nuclio/handler-builder-python-onbuild:{label}-amd64");
    docker(&["tag", &tag("latest"), &tag("1.6.6")]);
    let files = folder(&[
        ("Dockerfile", &dockerfile("", "")),
        ("main.py", "def handler(context, event):\n    return 'built'\n"),
    ]);
    let build =
        Build::of(files.path()).arg("NUCLIO_BASE_IMAGE", &base("python")).arg("NUCLIO_LABEL", "1.6.6");
    let image = build.arg("NUCLIO_ARCH", "amd64").arg("SOMETHING_ELSE", "1").run();
    docker(&["rmi", &tag("1.6.6")]);
    assert_eq!(answer(&image, true).1, "built");
}

#[test]
fn configuration_in_the_image_is_named_in_its_command() {
    if !ready() {
        return;
    }
    let command = r#"WORKDIR /opt/nuclio
CMD ["processor", "--config", "/opt/nuclio/function.yaml", "--platform-config", "/opt/nuclio/platform.yaml"]
"#;
    let platform = "metrics:\n  sinks: {pull: {kind: prometheusPull, url: ':9999'}}\n  functions: [pull]\n";
    let image = build(&[
        ("Dockerfile", &dockerfile("", command)),
        ("main.py", HANDLER),
        ("data.txt", "baked"),
        ("function.yaml", FUNCTION),
        ("platform.yaml", platform),
    ]);
    let (container, body) = answer(&image, false);
    assert!(body.ends_with(" baked"), "{body}");
    let scrape = ["uhttpc", "--url", "http://127.0.0.1:9999/metrics"];
    assert_eq!(container.exec(&scrape).0, Some(0), "the platform's file was read");
}

#[test]
#[ignore = "with scripts/test --full"]
fn the_commands_that_a_blueprint_prints_can_be_pasted() {
    if !ready() {
        return;
    }
    let (folder, name) = (tempfile::tempdir().unwrap(), unique("pasted"));
    let sh = |line: &str| {
        let output = Command::new("sh").args(["-c", line]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", docker::text(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let program = env!("CARGO_BIN_EXE_processor");
    let said = sh(&format!(
        "cd {} && {program} blueprint --runtime python --name {name} \"it's here\"",
        folder.path().display()
    ));
    let command = |word: &str| {
        let line = said.lines().find(|line| line.trim_start().starts_with(word));
        line.unwrap_or_else(|| panic!("no {word} in {said}")).trim().to_owned()
    };
    sh(&command("docker build")
        .replace("build ", &format!("build --build-arg NUCLIO_BASE_IMAGE={} ", base("python"))));
    // In the background, and on any port.
    let run = command("docker run").replace("--rm -p 8080:8080", "--detach --publish 127.0.0.1::8080");
    let _image = Image { name, said: String::new() };
    let container = Container::of(sh(&run));
    container.wait_healthy();
    assert_eq!(container.get("/").text(), "Hello from python");
}
