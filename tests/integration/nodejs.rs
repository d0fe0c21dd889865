//! What only Node.js handlers do: habits of functions in the wild, several events at a time, promises that fail, ES
//! modules, and everything that can be wrong with a handler's file.

use std::time::Duration;

use serde_json::json;

use crate::dev::serves;
use crate::harness::{Client, Processor, Setup, wait_until};
use crate::languages::nodejs;
use crate::support::said_at_the_start;

fn start(source: &str) -> Option<Processor> {
    Setup::nodejs(source).map(Setup::start)
}

#[test]
fn an_event_survives_json_with_its_body_as_a_buffer() {
    let source = "exports.handler = (context, event) => {
        const copy = JSON.parse(JSON.stringify(event))
        context.callback({ data: copy.body.data, type: copy.body.type, url: 'url' in copy, keys: Object.keys(copy).length })
    }";
    let Some(processor) = start(source) else { return };
    let expected = json!({"data": [104, 105], "type": "Buffer", "url": true, "keys": 19});
    assert_eq!(processor.post("/", "hi").json(), expected);
}

#[test]
fn an_error_can_be_logged_as_a_message() {
    let source = "exports.handler = (context, event) => {
        context.logger.error(new Error('as a message'))
        context.logger.warn({ an: 'object' })
        const odd = {}; odd.self = odd
        context.logger.info('odd fields', { odd, big: 1n, fine: 2, failure: new Error('inside') })
        context.callback('ok')
    }";
    let Some(processor) = start(source) else { return };
    assert_eq!(processor.get("/").text(), "ok");
    let record = processor.stdout.wait_for_record("Error: as a message");
    assert!(record["more"]["stack"].as_str().unwrap().contains("handler.js:2"), "{record}");
    processor.stdout.wait_for_record(r#"{"an":"object"}"#);
    let record = processor.stdout.wait_for_record("odd fields");
    assert_eq!(record["more"]["fine"], 2);
    assert!(record["more"]["failure"].as_str().unwrap().contains("inside"), "{record}");
}

#[test]
fn work_goes_on_after_the_callback_and_the_answer_does_not_wait_for_it() {
    let source = "exports.handler = (context, event) => {
        context.callback('answered')
        const look = () => require('fs').existsSync(__dirname + '/go')
            ? context.logger.warn('went on') : setTimeout(look, 5)
        look()
    }";
    let Some(processor) = start(source) else { return };
    assert_eq!(processor.get("/").text(), "answered");
    processor.touch("go");
    processor.stdout.wait_for_record("went on");
}

#[test]
fn a_thrown_string_leaves_the_worker_alive_and_a_throw_wins_over_the_callback() {
    let source = "exports.handler = (context, event) => {
        if (event.path === '/after') context.callback('given before')
        if (event.path !== '/') throw 'plain text'
        context.callback('alive')
    }";
    let Some(processor) = start(source) else { return };
    for path in ["/before", "/after"] {
        let answer = processor.get(path);
        assert_eq!((answer.status, answer.text().as_str()), (500, "Error in handler: plain text"), "{path}");
    }
    assert_eq!(processor.get("/").text(), "alive");
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn a_file_named_like_the_package_it_requires_and_a_handler_without_a_file() {
    let Some(node) = nodejs() else { return };
    let package = "exports.name = 'the package'";
    let source = "exports.entry = (context, event) => context.callback(require('mongodb').name)";
    for (file, handler) in
        [("mongodb.js", "mongodb:entry"), ("mongodb.js", "mongodb.js:entry"), ("handler.js", "entry")]
    {
        let setup = Setup::new("nodejs", handler);
        setup.write("node_modules/mongodb/index.js", package);
        setup.write(file, source);
        assert_eq!(setup.nodejs_environment(node).start().get("/").text(), "the package", "{handler}");
    }
}

#[test]
fn a_late_callback_of_one_event_does_not_answer_another() {
    let source = "let first
        exports.handler = (context, event) => {
            if (event.path === '/first') { first = context; return context.callback('first') }
            first.callback('too late')
            context.callback('second')
        }";
    let Some(processor) = start(source) else { return };
    assert_eq!(processor.get("/first").text(), "first");
    assert_eq!(processor.get("/second").text(), "second");
}

#[test]
fn what_handlers_put_on_the_context_stays_there() {
    let source = "exports.initContext = async (context) => { context.db = await Promise.resolve('db') }
        exports.handler = (context, event) => {
            const before = [context.db, context.userData.n, context.extra]
            context.userData = { n: 1 }
            context.extra = 'kept'
            context.callback(before)
        }";
    let Some(processor) = start(source) else { return };
    assert_eq!(processor.get("/").json(), json!(["db", null, null]));
    assert_eq!(processor.get("/").json(), json!(["db", 1, "kept"]));
}

/// Handlers that answer when a second event has come.
const MEETS: &str = "let waiting = null
    const meet = (answer) => {
        if (waiting === null) waiting = answer
        else { waiting('met'); answer('met'); waiting = null }
    }\n";

#[test]
fn an_async_handler_has_several_events_at_a_time_and_answers_out_of_order() {
    let source = format!("{MEETS} exports.handler = async (context, event) => new Promise(meet)");
    let Some(processor) = start(&source) else { return };
    let first = processor.send("/", "");
    processor.wait_in_flight(1);
    assert_eq!(processor.get("/").text(), "met");
    assert_eq!(first.join().unwrap().text(), "met");
}

#[test]
fn a_handler_with_a_callback_has_one_event_at_a_time_unless_the_mode_is_async() {
    let source = "let running = 0
        exports.handler = (context, event) => {
            const seen = ++running
            setTimeout(() => { running--; context.callback(String(seen)) }, 60)
        }";
    let Some(processor) = start(source) else { return };
    let answers: Vec<_> = (0..4).map(|_| processor.send("/", "")).collect();
    for answer in answers {
        assert_eq!(answer.join().unwrap().text(), "1");
    }
    let source = format!("{MEETS} exports.handler = (context, event) => meet(context.callback)");
    let Some(setup) = Setup::nodejs(&source) else { return };
    let processor = setup.trigger(json!({"mode": "async", "async": {"maxConnectionsNumber": 2}})).start();
    let first = processor.send("/", "");
    processor.wait_in_flight(1);
    assert_eq!(processor.get("/").text(), "met");
    assert_eq!(first.join().unwrap().text(), "met");
}

#[test]
fn mode_sync_keeps_async_handlers_at_one_event_and_the_configuration_bounds_them() {
    let source = "let running = 0
        exports.handler = async (context, event) => {
            const seen = ++running
            await new Promise((resolve) => setTimeout(resolve, 80))
            running--
            return String(seen)
        }";
    for (trigger, most) in
        [(json!({"mode": "sync"}), 1), (json!({"mode": "async", "async": {"maxConnectionsNumber": 2}}), 2)]
    {
        let Some(setup) = Setup::nodejs(source) else { return };
        let processor = setup.trigger(trigger).start();
        let answers: Vec<_> = (0..6).map(|_| processor.send("/", "")).collect();
        let seen = answers.into_iter().map(|answer| answer.join().unwrap().text().parse().unwrap());
        assert_eq!(seen.max(), Some(most));
    }
}

#[test]
fn of_several_events_one_that_times_out_leaves_the_others_alone() {
    let source = "exports.handler = async (context, event) => {
            if (event.path === '/hang') {
                context.signal.addEventListener('abort', () => context.logger.warn('told', { why: context.signal.reason.message }))
                return new Promise(() => {})
            }
            if (event.path === '/slow') await new Promise((resolve) => setTimeout(resolve, 700))
            return event.path
        }";
    let Some(setup) = Setup::nodejs(source) else { return };
    let processor = setup.spec(json!({"eventTimeout": "1s"})).start();
    let hung = processor.send("/hang", "");
    processor.wait_in_flight(1);
    std::thread::sleep(Duration::from_millis(600));
    let slow = processor.send("/slow", "");
    assert_eq!(hung.join().unwrap().status, 408);
    assert_eq!(slow.join().unwrap().text(), "/slow");
    let record = processor.stdout.wait_for_record("told");
    assert_eq!(record["more"]["why"], "the event has passed its deadline");
    processor.wait_in_flight(0);
    assert_eq!(processor.all_restarts(), 0);
    assert_eq!(processor.metric("nuclio_processor_event_timeouts_total", &[]), 1.0);
}

#[test]
fn of_several_events_one_that_blocks_the_loop_costs_the_worker() {
    let source = "exports.handler = async (context, event) => {
            if (event.path === '/wait') return new Promise(() => {})
            while (event.path === '/block');
            return 'fine'
        }";
    let Some(setup) = Setup::nodejs(source) else { return };
    let processor = setup.spec(json!({"eventTimeout": "500ms"})).start();
    let block = processor.send("/block", "");
    processor.wait_in_flight(1);
    let wait = processor.send("/wait", "");
    assert_eq!(block.join().unwrap().status, 408);
    let other = wait.join().unwrap();
    assert!(other.status == 408 || other.text().contains("worker restarted"), "{}", other.text());
    wait_until("it is counted", || processor.restarts("timeout") == 1);
    processor.wait_ready();
    assert_eq!(processor.get("/").text(), "fine");
}

#[test]
fn a_crash_fails_all_events_in_work_with_its_cause() {
    let source = "let count = 0
        exports.handler = async (context, event) => {
            if (event.path === '/') return 'fine'
            if (++count === 3) process.exit(3)
            return new Promise(() => {})
        }";
    let Some(processor) = start(source) else { return };
    let answers: Vec<_> = (0..3).map(|_| processor.send("/wait", "")).collect();
    for answer in answers {
        let answer = answer.join().unwrap();
        assert_eq!(answer.status, 500);
        assert!(answer.text().contains("exited with code 3"), "{}", answer.text());
    }
    processor.wait_ready();
    assert_eq!(processor.get("/").text(), "fine");
    processor.wait_in_flight(0);
}

#[test]
fn a_client_that_leaves_aborts_the_signal_of_its_event() {
    let source = "exports.handler = async (context, event) => {
            context.logger.warn('begun')
            await new Promise((resolve) => context.signal.addEventListener('abort', resolve))
            context.logger.warn('told', { why: context.signal.reason.message })
        }";
    let Some(processor) = start(source) else { return };
    let mut client = Client::connect(processor.http());
    client.send_post("/", b"");
    processor.stdout.wait_for_record("begun");
    client.reset();
    let record = processor.stdout.wait_for_record("told");
    assert_eq!(record["more"]["why"], "the client is gone");
}

#[test]
fn errors_that_nobody_catches_fail_the_event_they_came_from() {
    let source = "exports.handler = async (context, event) => {
            if (event.path === '/timer') setTimeout(() => { throw new Error('of a timer') }, 5)
            else if (event.path === '/rejection') setTimeout(() => Promise.reject(new Error('of a promise')), 5)
            else if (event.path === '/emitter') process.nextTick(() => new (require('events'))().emit('error', new Error('of an emitter')))
            else return new Promise((resolve) => setTimeout(resolve, 300, 'undisturbed'))
            return new Promise(() => {})
        }";
    let Some(processor) = start(source) else { return };
    let other = processor.send("/other", "");
    processor.wait_in_flight(1);
    for (path, text) in
        [("/timer", "of a timer"), ("/rejection", "of a promise"), ("/emitter", "of an emitter")]
    {
        let answer = processor.get(path);
        assert_eq!(answer.status, 500);
        assert!(answer.text().contains(text) && answer.text().contains("handler.js:"), "{}", answer.text());
    }
    assert_eq!(other.join().unwrap().text(), "undisturbed");
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn an_error_of_no_event_ends_the_worker_as_node_would_and_says_why() {
    let source = "exports.handler = (context, event) => context.callback('fine')
        const fs = require('fs'), go = __dirname + '/go'
        setInterval(() => { if (fs.existsSync(go)) { fs.unlinkSync(go); throw new Error('of the background') } }, 20)";
    let Some(processor) = start(source) else { return };
    assert_eq!(processor.get("/").text(), "fine");
    processor.touch("go");
    wait_until("it is replaced", || processor.restarts("exit") == 1);
    processor
        .stdout
        .wait_for("the stack", |line| line.contains("of the background") && line.contains("handler.js:3"));
    processor.wait_ready();
    assert_eq!(processor.get("/").text(), "fine");
}

#[test]
fn bodies_may_be_readable_streams_and_files() {
    let source = "const fs = require('fs'), zlib = require('zlib')
        exports.handler = async (context, event) => {
            const file = fs.createReadStream(event.path === '/missing' ? '/nowhere' : __filename)
            if (event.path === '/zip') return new context.Response(file.pipe(zlib.createGzip()), { 'Content-Encoding': 'gzip' })
            return event.path === '/web' ? new Blob(['a', 'b']).stream() : file
        }";
    let Some(processor) = start(source) else { return };
    assert_eq!(processor.get("/").text(), source);
    assert_eq!(processor.get("/web").text(), "ab");
    let zipped = processor.get("/zip");
    assert_eq!(
        (zipped.header("Content-Encoding"), &zipped.body[..2]),
        (Some("gzip"), [0x1f, 0x8b].as_slice())
    );
    let missing = processor.get("/missing");
    assert!(missing.status == 500 && missing.text().contains("ENOENT"), "{}", missing.text());
}

#[test]
fn es_modules_default_exports_and_whole_modules_are_handlers() {
    let Some(node) = nodejs() else { return };
    let module = "import fs from 'node:fs'\nlet n\nexport const initContext = () => { n = 1 }
        export const entry = (context, event) => context.callback('found ' + n + typeof fs.readFileSync)";
    let default = "export const initContext = (context) => { context.userData.n = 1 }
        export default async (context, event) => 'found ' + context.userData.n + 'function'";
    let whole = "module.exports = async (context) => 'found ' + context.userData.n + 'function'
        module.exports.initContext = (context) => { context.userData.n = 1 }";
    for (file, handler, source, package) in [
        ("main.mjs", "main.mjs:entry", module, "{}"),
        ("main.mjs", "main:entry", module, "{}"),
        ("main.js", "main:entry", module, r#"{"type": "module"}"#),
        ("main.mjs", "main:handler", default, "{}"),
        ("main.cjs", "main:handler", whole, r#"{"type": "module"}"#),
    ] {
        let setup = Setup::new("nodejs", handler);
        setup.write(file, source);
        setup.write("package.json", package);
        let processor = setup.nodejs_environment(node).start();
        assert_eq!(processor.get("/").text(), "found 1function", "{file} {handler}");
    }
}

#[test]
fn the_shim_may_be_a_file_even_beside_a_package_of_es_modules() {
    let Some(setup) = Setup::nodejs("export const handler = (context, event) => context.callback('es')")
    else {
        return;
    };
    setup.write("package.json", r#"{"type": "module"}"#);
    setup.write("wrapper.js", include_str!("../../runtimes/nodejs/wrapper.js"));
    let path = setup.directory.path().join("wrapper.js").display().to_string();
    let processor = setup.env("NUCLIO_NODEJS_WRAPPER_PATH", &path).start();
    assert_eq!(processor.get("/").text(), "es");
}

#[test]
fn output_of_the_handler_goes_to_standard_output_and_its_children_do_not_get_the_socket() {
    let source = "const { execFileSync, fork } = require('child_process')
        if (process.argv[2] === 'child') { process.send('forked'); process.exit() }
        exports.handler = (context, event) => {
            console.log('from the console')
            console.error('from the error console')
            const listing = execFileSync('/bin/ls', ['-l', '/proc/self/fd']).toString()
            fork(__filename, ['child']).on('message', (text) => context.callback({ text, ours: / [34] -> (socket|.memfd)/.test(listing) }))
        }";
    let Some(processor) = start(source) else { return };
    assert_eq!(processor.get("/").json(), json!({"text": "forked", "ours": false}));
    processor.stdout.wait_for("the line", |line| line == "from the console");
    processor.stdout.wait_for("the line", |line| line == "from the error console");
}

#[test]
fn what_is_wrong_with_a_handler_is_said_at_the_start() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("handler.js:handler", "const = 1", &["handler.js:1", "SyntaxError"]),
        ("handler.js:handler", "require('no-such-package')", &["Cannot find module 'no-such-package'"]),
        ("handler.js:handler", "throw new Error('at import')", &["at import", "handler.js:1"]),
        ("handler.js:handler", "setTimeout(() => { throw new Error('soon') }, 1)", &["soon", "handler.js:1"]),
        (
            "handler.js:handler",
            "exports.handler = () => {}; exports.initContext = () => { throw new Error('in init') }",
            &["initContext failed", "in init", "handler.js:1"],
        ),
        (
            "handler.js:handler",
            "exports.handler = () => {}; exports.initContext = async () => { throw new Error('in init') }",
            &["initContext failed", "in init"],
        ),
        ("handler.js:handler", "process.exit(5)", &["exited with code 5"]),
        ("absent.js:handler", "", &["no file", "absent.js", "correct spec.handler"]),
        ("a:b:c", "", &["does not have the form file:function", "correct spec.handler"]),
        (
            "handler.js:other",
            "exports.handler = () => {}; exports.two = () => {}",
            &["no function \"other\"", "handler, two", "correct spec.handler"],
        ),
    ];
    said_at_the_start(cases, Setup::nodejs);
}

#[test]
fn an_interpreter_that_is_not_there_is_named() {
    let setup =
        Setup::new("nodejs", "handler.js:handler").env("NUCLIO_NODEJS_EXE", "/nowhere/node").no_wait();
    let mut processor = setup.start();
    assert_eq!(processor.end().code(), Some(1));
    let said = processor.stderr.text();
    assert!(said.contains("Can't find nodejs executable") && said.contains("NUCLIO_NODEJS_EXE"), "{said}");
}

#[test]
fn a_stop_lets_events_finish_and_runs_the_termination_callback() {
    let source = "exports.initContext = (context) => context.setTerminationCallback(async () => {
            await new Promise((resolve) => setTimeout(resolve, 20))
            context.logger.warn('terminated')
        })
        exports.handler = async (context, event) => {
            context.logger.warn('holding')
            await new Promise((resolve) => setTimeout(resolve, 300))
            return 'finished'
        }";
    let Some(mut processor) = start(source) else { return };
    let answer = processor.send("/", "");
    processor.stdout.wait_for_record("holding");
    processor.signal(15);
    assert_eq!(answer.join().unwrap().text(), "finished");
    assert_eq!(processor.end().code(), Some(0));
    processor.stdout.wait_for_record("terminated");
}

#[test]
fn dev_serves_a_file() {
    let Some(node) = nodejs() else { return };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hello.js");
    std::fs::write(&file, "exports.handler = async (context, event) => 'hello'").unwrap();
    serves(&file, Some(("NUCLIO_NODEJS_EXE", node.as_ref())), "hello");
}
