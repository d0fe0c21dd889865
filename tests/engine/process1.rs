//! The processor as the first process of a container: children of others, signals, a kill in the middle.

use crate::docker::{Container, available, docker, python, python_function};

const HELLO: &str = "def handler(context, event):\n    return 'hello'\n";

fn no_zombies(container: &Container) {
    container.wait_for("nothing is left unreaped", || container.zombies().is_empty());
}

#[test]
fn probes_that_fail_and_what_exec_leaves_behind_are_reaped() {
    if !available() {
        return;
    }
    let image = python(HELLO);
    // Each leaves a child behind that is orphaned when its shell ends.
    let probe = "sleep 0.2 & /usr/local/bin/uhttpc --url http://127.0.0.1:8082/nothing";
    let options = ["--health-cmd", probe, "--health-interval", "100ms", "--health-retries", "1000000"];
    let container = image.function(python_function()).option(&options).start();
    container.wait_for("30 probes have failed", || {
        container.inspect("{{.State.Health.FailingStreak}}").parse::<u32>().unwrap() >= 30
    });
    for _ in 0..5 {
        assert_eq!(container.exec(&["sh", "-c", "sleep 0.1 & exit 0"]).0, Some(0));
    }
    container.wait_for("only those of running probes are left", || container.processes().len() < 12);
    // One may be seen just before it is reaped; it must not stay.
    no_zombies(&container);
    assert_eq!(container.get("/").text(), "hello");
    assert_eq!(container.stop().1, 0);
}

#[test]
fn sigint_and_sigterm_end_it_with_0_also_below_another_first_process() {
    if !available() {
        return;
    }
    let image = python(HELLO);
    // A shell passes nothing on: the kernel ends it, and a restart must find nothing in its way.
    let shell = ["sh", "-c", "processor & wait $!; exit $?"];
    let cases: [(&str, &[&str], &[&str], i32); 4] = [
        ("TERM", &[], &[], 0),
        ("INT", &[], &[], 0),
        ("TERM", &["--init"], &[], 0),
        ("KILL", &[], &shell, 137),
    ];
    for (signal, options, command, wanted) in cases {
        let container = image.function(python_function()).option(options).command(command).start();
        container.wait_healthy();
        docker(&["kill", "--signal", signal, &container.name]);
        assert_eq!(container.wait_exit(), wanted, "{signal}: {}", container.logs());
        // The next start in what the last one has left.
        docker(&["start", &container.name]);
        container.wait_healthy();
        assert_eq!(container.get("/").text(), "hello", "{signal}");
    }
}

#[test]
fn a_request_in_work_is_answered_during_a_stop() {
    if !available() {
        return;
    }
    let image = python(
        "import time\ndef handler(context, event):\n    if event.path == '/slow':\n        time.sleep(1)\n    \
         return 'hello'\n",
    );
    let container = image.function(python_function()).start();
    container.wait_healthy();
    let port = container.port();
    let slow = std::thread::spawn(move || crate::harness::get(port, "/slow").unwrap());
    container.wait_for("the request has come in", || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        true
    });
    let (_, code) = container.stop();
    let answer = slow.join().unwrap();
    assert_eq!((answer.status, answer.text().as_str(), code), (200, "hello", 0));
}
