//! System calls per event, of the processor and its shim together, counted by `strace`: upper bounds that one call
//! more per event exceeds. Whoever needs one raises the bound and says in the commit why.
//!
//! The same function runs twice, with few and with many events; what the second run has more is the events'. Calls
//! that wake threads are left out: how many there are is a matter of time.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Client, Processor, Setup, children_of};
use crate::support::kill;

/// Events of both runs.
const EVENTS: [usize; 2] = [320, 2320];
/// What start, end and the clock may make of it: less than one call per event by far.
const TOLERANCE: f64 = 0.3;
const REQUEST: &[u8] =
    b"POST /a/b?c=d HTTP/1.1\r\nHost: test\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello";

const READS: &[&str] = &["read", "readv", "recvfrom", "recvmsg"];
const WRITES: &[&str] = &["write", "writev", "sendto", "sendmsg"];
const WAITS: &[&str] = &["epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6"];
const WAKES: &[&str] = &["futex"];

/// Most calls per event.
struct Bounds {
    reads: f64,
    writes: f64,
    /// At one connection, and at several, where there is mostly something to do.
    waits: [f64; 2],
    others: f64,
    /// A write may wake a thread.
    ignored: &'static [&'static str],
}

#[test]
fn an_event_in_process_takes_a_read_and_a_write() {
    // `write` wakes a thread; no answer goes out by it.
    let bounds = Bounds { reads: 1.0, writes: 1.0, waits: [2.0, 0.5], others: 0.0, ignored: &["write"] };
    check(&bounds, || Some(Setup::builtin()));
}

#[test]
fn an_event_in_python_takes_three_reads_and_three_writes() {
    let bounds = Bounds { reads: 3.0, writes: 3.0, waits: [2.0, 2.0], others: 0.0, ignored: &[] };
    check(&bounds, || Some(Setup::python("def handler(context, event):\n    return 'hello'\n")));
}

#[test]
fn an_event_in_nodejs_takes_three_reads_and_three_writes() {
    // Node.js looks for more of its own events before it waits, and its threads collect garbage.
    let bounds = Bounds { reads: 3.0, writes: 3.0, waits: [4.0, 4.0], others: 0.3, ignored: &[] };
    check(&bounds, || Setup::nodejs("exports.handler = (context, event) => context.callback('hello')\n"));
}

/// Out of the client's socket, into the shim's and out of it, and all the way back: what is copied otherwise is copied
/// in vain.
#[test]
fn a_body_is_copied_by_the_kernel_six_times_on_its_way_through_python_and_back() {
    const BODY_BYTES: usize = 4 << 20;
    const COPIES: f64 = 6.0;
    if let Err(reason) = may_trace() {
        println!("skipped: {reason}");
        return;
    }
    let mut moved = Vec::new();
    let bodies = [2, 10];
    for count in bodies {
        let setup = Setup::python("def handler(context, event):\n    return event.body\n");
        let list = traced(setup, &["-s", "0", "-e", &[READS, WRITES].concat().join(",")], |processor| {
            let mut client = Client::connect(processor.http());
            let body = vec![b'x'; BODY_BYTES];
            for _ in 0..count {
                client.send_post("/", &body);
                assert!(client.read_answer(false).unwrap().body == body);
            }
        });
        let returned =
            |line: &str| line.rsplit_once(" = ").and_then(|(_, said)| said.trim().parse::<usize>().ok());
        moved.push(list.lines().filter_map(returned).sum::<usize>());
    }
    let copies = (moved[1] - moved[0]) as f64 / ((bodies[1] - bodies[0]) * BODY_BYTES) as f64;
    println!("{copies:.3} copies");
    assert!(copies < COPIES + 0.1, "{copies:.3} copies of a body in system calls, at most {COPIES}");
}

fn check(bounds: &Bounds, setup: impl Fn() -> Option<Setup>) {
    if let Err(reason) = may_trace() {
        println!("skipped: {reason}");
        return;
    }
    for (connections, waits) in [1, 16].into_iter().zip(bounds.waits) {
        let mut counts = Vec::new();
        for events in EVENTS {
            let Some(setup) = setup() else { return };
            let table = traced(setup, &["-c"], |processor| {
                let mut clients: Vec<Client> =
                    (0..connections).map(|_| Client::connect(processor.http())).collect();
                for _ in 0..events / connections {
                    clients.iter_mut().for_each(|client| client.send(REQUEST));
                    for client in &mut clients {
                        assert_eq!(client.read_answer(false).unwrap().status, 200);
                    }
                }
            });
            counts.push(calls(&table));
        }
        let more = (EVENTS[1] - EVENTS[0]) as f64;
        let of = |pick: &dyn Fn(&str) -> bool| {
            let sum = |counts: &[(String, usize)]| {
                counts.iter().filter(|(name, _)| pick(name)).map(|(_, calls)| *calls).sum::<usize>() as f64
            };
            (sum(&counts[1]) - sum(&counts[0])) / more
        };
        let wakes = of(&|name| WAKES.contains(&name) || bounds.ignored.contains(&name));
        println!("{connections} connections: {wakes:.3} wakes per event, {:.3} calls in all", of(&|_| true));
        let named = [READS, WRITES, WAITS, WAKES].concat();
        let counted = |names: &[&str], name: &str| names.contains(&name) && !bounds.ignored.contains(&name);
        for (what, found, bound) in [
            ("reads", of(&|name| counted(READS, name)), bounds.reads),
            ("writes", of(&|name| counted(WRITES, name)), bounds.writes),
            ("waits", of(&|name| counted(WAITS, name)), waits),
            ("others", of(&|name| !named.contains(&name)), bounds.others),
        ] {
            println!("{connections} connections: {found:.3} {what} per event");
            assert!(
                found <= bound + TOLERANCE,
                "{connections} connections: {found:.3} {what} per event, at most {bound}\n{counts:?}"
            );
        }
    }
}

/// `Err`: why nothing can be traced here.
fn may_trace() -> Result<(), String> {
    let tried = Command::new("strace").args(["-f", "-c", "-o", "/dev/null", "true"]).output();
    let tried = tried.map_err(|error| format!("strace does not start: {error}"))?;
    let said =
        || format!("strace may not trace: {}", String::from_utf8_lossy(&tried.stderr).replace('\n', " "));
    tried.status.success().then_some(()).ok_or_else(said)
}

/// Ends the traced processor whatever comes: who traces it does not take it along.
struct Traced(Processor);

impl Drop for Traced {
    fn drop(&mut self) {
        children_of(self.0.child.id()).into_iter().for_each(kill);
    }
}

/// What `strace` writes of a processor and its children, from their start to their end; `work` is done meanwhile.
fn traced(setup: Setup, options: &[&str], work: impl FnOnce(&Processor)) -> String {
    let list = setup.directory.path().join("calls");
    let (out, options) = (list.clone(), options.iter().map(|&option| option.to_owned()).collect::<Vec<_>>());
    let setup = setup.no_wait(); // Asking it again and again would be counted.
    let strace = move |command: &mut Command| *command = under_strace(command, &options, &out);
    let mut traced = Traced(setup.start_redirected(strace));
    traced.0.stdout.wait_for_record("Processor started");
    work(&traced.0);
    let [pid] = children_of(traced.0.child.id())[..] else { panic!("strace has one child") };
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(traced.0.wait().success(), "{}", traced.0.stdout.text());
    std::fs::read_to_string(list).unwrap()
}

fn under_strace(command: &Command, options: &[String], out: &Path) -> Command {
    let mut strace = Command::new("strace");
    strace.arg("-f").args(options).arg("-o").arg(out).arg(command.get_program()).args(command.get_args());
    strace.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    strace.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    strace
}

/// Of lines with time, seconds, time of a call, calls, maybe errors, and a name.
fn calls(table: &str) -> Vec<(String, usize)> {
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.first()?.parse::<f64>().ok()?;
        Some(((*words.last()?).to_owned(), words.get(3)?.parse().ok()?))
    };
    let calls: Vec<_> = table.lines().filter_map(row).filter(|(name, _)| name != "total").collect();
    assert!(calls.len() > 10, "no table of strace's:\n{table}");
    calls
}
