//! What only Ruby handlers do: habits of functions in the wild, streams, errors of every kind, and everything that can
//! be wrong with a handler's file.

use std::path::Path;

use serde_json::json;

use crate::dev::serves;
use crate::harness::{Client, Processor, Setup};
use crate::languages::ruby;
use crate::support::said_at_the_start;

fn start(source: &str) -> Option<Processor> {
    Setup::ruby(source).map(Setup::start)
}

#[test]
fn a_body_can_be_changed_in_place() {
    let Some(processor) = start("def handler(context, event)\n  event.body.reverse!\nend\n") else { return };
    // Twice: what the first event's handler did does not reach the second.
    for _ in 0..2 {
        assert_eq!(processor.post("/", "abc").text(), "cba");
    }
    assert_eq!(processor.get("/").text(), "", "no body is an empty text");
}

#[test]
fn libraries_that_the_reference_loads_need_no_require() {
    let source = "def handler(context, event)
        { json: JSON.parse(event.body), base64: Base64.strict_encode64('hi'), date: Date.new(2025, 1, 2).to_s,
          json_of: [1].to_json, url: event.url, options: OptionParser.name, socket: UNIXSocket.name }
    end";
    let Some(processor) = start(source) else { return };
    let expected = json!({"json": {"a": 1}, "base64": "aGk=", "date": "2025-01-02", "json_of": "[1]", "url": "",
        "options": "OptionParser", "socket": "UNIXSocket"});
    assert_eq!(processor.post("/", "{\"a\": 1}").json(), expected);
}

#[test]
fn files_beside_the_handler_are_required_relatively_and_user_classes_do_not_collide() {
    let source = "require_relative 'lib/helper'
        class Event; def self.mine; 'mine'; end; end
        class Logger; end
        def handler(context, event)
          [201, [Event.mine, helped, __FILE__.end_with?('/main.rb'), $PROGRAM_NAME == __FILE__]]
        end";
    let Some(setup) = Setup::ruby(source) else { return };
    setup.write("lib/helper.rb", "def helped\n  'helped'\nend\n");
    let answer = setup.start().get("/");
    assert_eq!((answer.status, answer.json()), (201, json!(["mine", "helped", true, false])));
}

#[test]
fn state_and_threads_of_a_handler_live_on_between_its_events() {
    let source = "def init_context(context)
          context.user_data = { count: 0 }
          Thread.new { context.user_data[:background] = 'ran' }
        end
        def handler(context, event)
          context.user_data[:count] += 1
          sleep 0.01 until context.user_data[:background]
          context.user_data
        end";
    let Some(processor) = start(source) else { return };
    for count in 1..=3 {
        assert_eq!(processor.get("/").json(), json!({"count": count, "background": "ran"}));
    }
}

#[test]
fn programs_that_a_handler_starts_get_none_of_our_descriptors_and_output_passes_through() {
    let source = "def handler(context, event)
          puts 'from puts'
          warn 'from warn'
          listing = `/bin/ls -l /proc/self/fd`
          { ours: listing.match?(/socket|memfd/), shell: `echo started`.strip, fd: ENV['NUCLIO_SHIM_FD'] }
        end";
    let Some(processor) = start(source) else { return };
    assert_eq!(processor.get("/").json(), json!({"ours": false, "shell": "started", "fd": null}));
    processor.stdout.wait_for("the line", |line| line == "from puts");
    processor.stderr.wait_for("the line", |line| line == "from warn");
}

#[test]
fn errors_of_every_kind_fail_their_own_event_and_are_in_the_log_with_their_trace() {
    let source = "def deeper(event)
          case event.path
          when '/standard' then raise ArgumentError, 'standard error'
          when '/script' then raise NotImplementedError, 'script error'
          when '/deep' then deeper(event)
          when '/json' then { a: Float::NAN }
          when '/bytes' then { a: \"\\xff\" }
          when '/type' then Response.new(Object.new)
          when '/nul' then raise \"bad \\xff text\"
          else 'fine'
          end
        end
        def handler(context, event)
          deeper(event)
        end";
    let Some(processor) = start(source) else { return };
    for (path, text) in [
        ("/standard", "standard error (ArgumentError)"),
        ("/script", "script error (NotImplementedError)"),
        ("/deep", "stack level too deep (SystemStackError)"),
        ("/json", "GeneratorError"),
        ("/bytes", "GeneratorError"),
        ("/type", "body of a Response is an Object"),
        ("/nul", "bad \u{fffd} text"),
    ] {
        let answer = processor.get(path);
        assert!(answer.status == 500 && answer.text().contains(text), "{path}: {}", answer.text());
    }
    let record = processor.stdout.wait_for("the record", |line| line.contains("standard error"));
    assert!(record.contains("main.rb:3") && record.contains("Exception caught in handler"), "{record}");
    assert_eq!(processor.get("/").text(), "fine");
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn a_handler_that_exits_fails_its_own_event_whatever_its_code() {
    let source = "def handler(context, event)
          exit(event.path[1..-1].to_i) unless event.path == '/'
          'alive'
        end";
    let Some(processor) = start(source) else { return };
    for code in [0, 3] {
        let answer = processor.get(&format!("/{code}"));
        assert_eq!(answer.status, 500);
        assert!(answer.text().contains(&format!("exited with code {code}")), "{}", answer.text());
        processor.wait_ready();
        assert_eq!(processor.get("/").text(), "alive");
    }
    assert_eq!(processor.restarts("exit"), 2);
}

#[test]
fn a_handler_that_hangs_shows_where_when_it_is_given_up() {
    let source = "def stuck\n  loop {}\nend\n\ndef handler(context, event)\n  stuck\nend\n";
    let Some(setup) = Setup::ruby(source) else { return };
    let processor = setup.spec(json!({"eventTimeout": "300ms"})).start();
    assert_eq!(processor.get("/").status, 408);
    processor.stderr.wait_for("the stack", |line| line.contains("main.rb:2:in `") && line.contains("stuck"));
}

#[test]
fn files_and_large_texts_are_streamed_and_names_of_headers_kept() {
    let source = "def handler(context, event)
          return File.open(__FILE__) if event.path == '/file'
          Response.new(Array.new(40) { 'y' * 50_000 }.each, headers: { 'X-Many' => %w[a b] }, status_code: 202)
        end";
    let Some(processor) = start(source) else { return };
    assert_eq!(processor.get("/file").text(), source);
    let answer = processor.get("/");
    assert_eq!((answer.status, answer.body.len(), answer.values("X-Many")), (202, 2_000_000, vec!["a", "b"]));
}

#[test]
fn what_is_wrong_with_a_ruby_handler_is_said_at_the_start() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("main:handler", "def handler(", &["main.rb:1", "syntax error"]),
        ("main:handler", "require 'no-such-library'", &["no-such-library", "LoadError"]),
        ("main:handler", "raise 'at load'", &["main.rb:1", "at load (RuntimeError)"]),
        ("main:handler", "exit 5", &["exited with code 5"]),
        ("main:handler", "text = '\\xff'\ndef handler(", &["main.rb:2"]),
        (
            "main:handler",
            "def handler(context, event); end\ndef init_context(context)\n  raise 'in init'\nend",
            &["init_context failed", "main.rb:3", "in init"],
        ),
        ("absent:handler", "", &["no file", "absent.rb", "correct spec.handler"]),
        ("main", "", &["does not have the form file:method", "correct spec.handler"]),
        ("main:other", "def one; end", &["no method \"other\"", "it defines: one; correct spec.handler"]),
    ];
    said_at_the_start(cases, Setup::ruby);
}

#[test]
fn a_ruby_that_is_not_there_is_named() {
    let setup = Setup::new("ruby", "main:handler").env("NUCLIO_RUBY_EXE", "/nowhere/ruby").no_wait();
    let mut processor = setup.start();
    assert_eq!(processor.end().code(), Some(1));
    let said = processor.stderr.text();
    assert!(said.contains("Can't find ruby executable") && said.contains("NUCLIO_RUBY_EXE"), "{said}");
}

#[test]
fn a_shim_in_the_image_is_used_and_handlers_are_beside_it() {
    let Some(ruby) = ruby() else { return };
    let setup = Setup::new("ruby", "main:handler").env("NUCLIO_RUBY_EXE", ruby);
    setup.write("main.rb", "def handler(context, event)\n  'beside'\nend\n");
    setup.write("wrapper.rb", include_str!("../../runtimes/ruby/wrapper.rb"));
    let path = setup.directory.path().join("wrapper.rb").display().to_string();
    let processor = setup.env("NUCLIO_WRAPPER_PATH", &path).start();
    assert_eq!(processor.get("/").text(), "beside");
    processor.stdout.wait_for_record("Using the shim in the image");
}

#[test]
fn a_stop_lets_a_ruby_event_finish_and_runs_the_callback() {
    let source = "def init_context(context)
          context.set_termination_callback { context.logger.warn('terminated') }
        end
        def handler(context, event)
          context.logger.warn('holding')
          sleep 0.3
          'finished'
        end";
    let Some(mut processor) = start(source) else { return };
    let answer = processor.send("/", "");
    processor.stdout.wait_for_record("holding");
    processor.signal(15);
    assert_eq!(answer.join().unwrap().text(), "finished");
    assert_eq!(processor.end().code(), Some(0));
    processor.stdout.wait_for_record("terminated");
}

#[test]
fn a_client_that_leaves_early_does_not_disturb_the_next() {
    let source = "def handler(context, event)
          context.logger.warn('begun') if event.path == '/slow'
          sleep 0.2 if event.path == '/slow'
          event.path
        end";
    let Some(processor) = start(source) else { return };
    let mut client = Client::connect(processor.http());
    client.send_post("/slow", b"");
    processor.stdout.wait_for_record("begun");
    client.reset();
    assert_eq!(processor.get("/next").text(), "/next");
    processor.wait_in_flight(0);
}

#[test]
fn the_ruby_examples_do_what_they_say() {
    let Some(ruby) = ruby() else { return };
    let run = |folder: &str, file: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/ruby").join(folder);
        let setup = Setup::new("ruby", &format!("{file}:handler"));
        setup.env("NUCLIO_HANDLER_DIR", &folder.display().to_string()).env("NUCLIO_RUBY_EXE", ruby).start()
    };
    assert_eq!(run("hello", "hello").get("/?name=you").text(), "Hello, you");
    assert_eq!(run("init_context", "greeting").post("/", "you").text(), "Hello, you");
    let sum = run("json", "sum");
    assert_eq!(sum.post("/", "[1, 2, 3]").json(), json!({"sum": 6}));
    assert_eq!(sum.post("/", "[1").status, 400);
    let visit = run("logging", "visit");
    assert_eq!(visit.get("/there").text(), "logged");
    assert_eq!(visit.stdout.wait_for_record("visit")["more"], json!({"path": "/there", "worker": 0}));
    let count = run("stream", "count");
    assert_eq!(count.get("/").text(), "1\n2\n3\n4\n5\n");
    count.stdout.wait_for_record("done");
}

#[test]
fn dev_serves_a_ruby_file() {
    let Some(ruby) = ruby() else { return };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hello.rb");
    std::fs::write(&file, "def handler(context, event)\n  'hello'\nend\n").unwrap();
    serves(&file, Some(("NUCLIO_RUBY_EXE", ruby.as_ref())), "hello");
}
