//! What only Java handlers do: habits of functions in the wild, everything that can be wrong with a handler's class, jars
//! and sources, options of the JVM.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::dev::serves;
use crate::harness::{Client, Processor, Setup, wait_until};
use crate::java_build::{built, wrapper};
use crate::support::said_at_the_start;

/// A handler whose method has this body.
fn start(body: &str) -> Option<Processor> {
    setup(body).map(Setup::start)
}

fn setup(body: &str) -> Option<Setup> {
    Setup::java_source(&method(body))
}

fn method(body: &str) -> String {
    format!("public Response handleEvent(Context context, Event event) {{\n{body}\n}}")
}

#[test]
fn whatever_a_java_handler_throws_fails_its_event_alone() {
    let Some(processor) = start(
        r#"switch (event.getPath()) {
            case "/deep": return handleEvent(context, event);
            case "/memory": return new Response().setBody(new byte[Integer.MAX_VALUE]);
            case "/linkage": throw new NoClassDefFoundError("made up");
            case "/odd": throw new RuntimeException() { public String toString() { throw new Error(); } };
            case "/interrupt": Thread.currentThread().interrupt();
            default: return new Response().setBody("fine " + Thread.currentThread().isInterrupted());
        }"#,
    ) else {
        return;
    };
    for (path, text) in [
        ("/deep", "java.lang.StackOverflowError"),
        ("/memory", "java.lang.OutOfMemoryError"),
        ("/linkage", "java.lang.NoClassDefFoundError: made up"),
        ("/odd", "Handler$1"),
    ] {
        let answer = processor.get(path);
        assert!(answer.status == 500 && answer.text().contains(text), "{path}: {}", answer.text());
    }
    assert_eq!(processor.get("/interrupt").text(), "fine true");
    assert_eq!(processor.get("/").text(), "fine false");
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn headers_and_fields_are_read_with_the_conversions_of_the_sdk() {
    let Some(processor) = start(
        r#"Map<String, Object> headers = new HashMap<>();
        headers.put("X-List", new String[] {"a", "b"});
        headers.put("X-Bytes", "bytes".getBytes());
        headers.put("X-Fraction", 1.5);
        headers.put("X-Whole", 2.0);
        headers.put("X-Flag", true);
        headers.put("X-Null", null);
        headers.put("X-Map", Map.of("a", 1));
        headers.put("X-Builder", new StringBuilder("built"));
        return new Response().setHeaders(headers).setBody(String.join(" ",
            new String(event.getHeaderBytes("X-Text")), event.getFieldString("x"), new String(event.getFieldBytes("x")),
            "" + event.getField("y"), "" + event.getFieldLong("x"), "" + event.getHeader("Absent"),
            "" + (event.getTimestamp().getTime() > 1600000000000L), event.getVersion() + event.getType(), event.getID()));"#,
    ) else {
        return;
    };
    let answer = processor.request("GET /?x=7&y= HTTP/1.1\r\nX-Text: hi\r\n\r\n", b"");
    let text = answer.text();
    assert!(text.starts_with("hi 7 7  0 null true  "), "{text}");
    assert_eq!(text.rsplit(' ').next().unwrap().len(), 36, "{text}");
    for (name, values) in [
        ("X-List", &["a", "b"][..]),
        ("X-Bytes", &["bytes"]),
        ("X-Fraction", &["1.5"]),
        ("X-Whole", &["2"]),
        ("X-Flag", &["true"]),
        ("X-Null", &[]),
        ("X-Map", &[]),
        ("X-Builder", &["built"]),
    ] {
        assert_eq!(answer.values(name), values, "{name}");
    }
}

#[test]
fn records_hold_values_of_any_kind_and_come_from_any_thread() {
    let Some(processor) = start(
        r#"Map<String, Object> cycle = new HashMap<>();
        cycle.put("self", cycle);
        Object fails = new Object() { public String toString() { throw new IllegalStateException(); } };
        context.getLogger().infoWith("odd", "cycle", cycle, "fails", fails, "nan", Double.NaN, "list", List.of(1, "x"),
            "bytes", new byte[] {1, 2}, "failure", new Exception("inside"), null, 'c');
        context.getLogger().infoWith("dropped", "name without value");
        Thread thread = new Thread(() -> context.getLogger().info("from a thread"));
        thread.start();
        try { thread.join(); } catch (InterruptedException error) { throw new RuntimeException(error); }
        new Thread(() -> {
            try { Thread.sleep(300); } catch (InterruptedException error) { return; }
            context.getLogger().info("after the answer");
        }).start();
        return new Response().setBody("ok");"#,
    ) else {
        return;
    };
    let answer = processor.request("GET / HTTP/1.1\r\nX-Nuclio-Log-Level: debug\r\n\r\n", b"");
    assert_eq!(answer.text(), "ok");
    let record = processor.stdout.wait_for_record("odd");
    let more = &record["more"];
    assert_eq!(
        (&more["list"], &more["bytes"], &more["nan"]),
        (&json!([1, "x"]), &json!([1, 2]), &json!("NaN"))
    );
    assert!(more["failure"].as_str().unwrap().contains("Handler.java"), "{more}");
    assert_eq!((&more["null"], &more["worker_id"]), (&json!("c"), &json!("0")));
    assert_eq!(processor.stdout.wait_for_record("dropped")["more"]["worker_id"], "0");
    processor.stderr.wait_for("the line", |line| line.contains("a name without a value"));
    assert!(answer.header("X-Nuclio-Logs").unwrap().contains("from a thread"));
    processor.stdout.wait_for_record("after the answer");
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn a_java_record_below_the_wanted_level_is_not_formatted() {
    let Some(mut setup) =
        setup("context.getLogger().debug(\"100% done\"); return new Response().setBody(\"fine\");")
    else {
        return;
    };
    setup.platform = json!({"logger": {"functions": [{"level": "info", "sink": "out"}]}});
    let processor = setup.start();
    assert_eq!(processor.get("/").text(), "fine");
    let answer = processor.request("GET / HTTP/1.1\r\nX-Nuclio-Log-Level: debug\r\n\r\n", b"");
    assert!(answer.text().contains("java.util.MissingFormatArgument"), "{}", answer.text());
}

#[test]
fn what_a_java_handler_prints_and_reads_is_not_the_socket() {
    let Some(processor) = start(
        r#"System.out.println("from standard output");
        System.err.println("from standard error");
        try {
            return new Response().setBody("read " + System.in.read());
        } catch (java.io.IOException error) {
            throw new RuntimeException(error);
        }"#,
    ) else {
        return;
    };
    assert_eq!(processor.get("/").text(), "read -1");
    processor.stdout.wait_for("the line", |line| line == "from standard output");
    processor.stderr.wait_for("the line", |line| line == "from standard error");
}

#[test]
fn jvm_options_reach_the_jvm_and_mistakes_in_them_are_named() {
    let Some(setup) = setup(r#"return new Response().setBody(System.getProperty("greeting"));"#) else {
        return;
    };
    let options = |options: serde_json::Value| json!({"runtimeAttributes": {"jvmOptions": options}});
    let processor = setup.spec(options(json!(["-Dgreeting=hello", "-Xmx128m"]))).start();
    assert_eq!(processor.get("/").text(), "hello");
    for (wrong, text) in [
        (json!("-Xmx1g"), "jvmOptions is not a list (\"-Xmx1g\")"),
        (json!(["-Xmx1g", 7]), "jvmOptions 1 is not a string (7)"),
        (json!(["-XX:NoSuchOption"]), "NoSuchOption"),
    ] {
        let setup = Setup::new("java", "Handler").java_environment(Path::new("/nowhere")).unwrap();
        let mut processor = setup.spec(options(wrong)).no_wait().start();
        assert_eq!(processor.end().code(), Some(1));
        let said = processor.stderr.text();
        assert!(said.contains(text), "{text} is not in:\n{said}");
    }
}

#[test]
fn a_java_handler_that_passes_its_deadline_shows_where_it_hangs() {
    let Some(setup) =
        setup("while (event.getPath().equals(\"/hang\")) { Thread.onSpinWait(); } return new Response();")
    else {
        return;
    };
    let processor = setup.spec(json!({"eventTimeout": "300ms"})).start();
    assert_eq!(processor.get("/hang").status, 408);
    processor.stderr.wait_for("the frame", |line| line.contains("Handler.handleEvent(Handler.java:"));
    processor.wait_ready();
    assert_eq!(processor.get("/").status, 200);
}

#[test]
fn a_java_handler_can_see_that_its_client_has_left() {
    let Some(processor) = start(
        r#"context.getLogger().warn("begun");
        while (event.getPath().equals("/long") && !context.isCancelled()) {
            try { Thread.sleep(5); } catch (InterruptedException error) { throw new RuntimeException(error); }
        }
        context.getLogger().warnWith("ended", "cancelled", context.isCancelled());
        return new Response().setBody("next");"#,
    ) else {
        return;
    };
    let mut client = Client::connect(processor.http());
    client.send_post("/long", b"");
    processor.stdout.wait_for_record("begun");
    client.reset();
    assert_eq!(processor.stdout.wait_for_record("ended")["more"]["cancelled"], true);
    assert_eq!(processor.get("/").text(), "next");
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn input_streams_are_streamed_and_failures_before_the_first_byte_are_ordinary() {
    let Some(processor) = start(
        r#"switch (event.getPath()) {
            case "/input": return new Response().setBody(new java.io.ByteArrayInputStream(new byte[300000]));
            case "/fails": return new Response().setBody(out -> { out.write(1); throw new java.io.IOException("early"); });
            default: return new Response().setBody(out -> out.write("short".getBytes()));
        }"#,
    ) else {
        return;
    };
    assert_eq!(processor.get("/input").body, vec![0; 300_000]);
    let answer = processor.get("/fails");
    assert!(answer.status == 500 && answer.text().contains("early"), "{}", answer.text());
    assert_eq!(processor.get("/").text(), "short");
}

#[test]
fn another_thread_may_write_a_java_stream_while_the_handlers_own_looks_whether_it_is_cancelled() {
    let Some(processor) = start(
        r#"return new Response().setBody(out -> {
            Thread thread = new Thread(() -> {
                try {
                    for (int at = 0; at < 2048; at++) { out.write(new byte[4096]); out.flush(); }
                } catch (java.io.IOException error) { context.getLogger().error("%s", error); }
            });
            thread.start();
            while (thread.isAlive()) { context.isCancelled(); }
        });"#,
    ) else {
        return;
    };
    for _ in 0..2 {
        assert_eq!(processor.get("/").body.len(), 8 << 20);
    }
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn a_body_that_the_java_heap_cannot_hold_fails_its_event_alone_and_one_that_it_can_is_there_once() {
    let Some(setup) = setup(
        r#"switch (event.getPath()) {
            case "/leak": try { while (true) LEAK.add(new byte[1000]); } finally { LEAK.add(new byte[0]); }
            case "/headers":
                Map<String, Object> headers = new HashMap<>();
                headers.put("X-Many", Collections.nCopies(70000, ""));
                return new Response().setHeaders(headers);
            default: return new Response().setBody("" + event.getBody().length);
        }
    }
    static final List<byte[]> LEAK = new ArrayList<>();
    {"#,
    ) else {
        return;
    };
    let setup = setup.spec(json!({"runtimeAttributes": {"jvmOptions": ["-Xmx40m"]}}));
    let processor = setup.trigger(json!({"attributes": {"maxRequestBodySize": 100 << 20}})).start();
    assert_eq!(processor.post("/", &"x".repeat(16 << 20)).text(), (16 << 20).to_string());
    let answer = processor.post("/", &"x".repeat(60 << 20));
    assert!(
        answer.status == 500 && answer.text().contains("java.lang.OutOfMemoryError"),
        "{}",
        answer.text()
    );
    let answer = processor.get("/headers");
    assert!(answer.status == 500 && answer.text().contains("has 70000 headers"), "{}", answer.text());
    assert_eq!(processor.post("/", "next").text(), "4");
    assert_eq!(processor.all_restarts(), 0);
    // One that has filled the heap for good is replaced, and says why.
    assert_eq!(processor.get("/leak").status, 500);
    wait_until("it is replaced", || {
        processor.post("/", &"x".repeat(1 << 20));
        processor.all_restarts() > 0
    });
    processor.stderr.wait_for("the reason", |line| line.contains("raise -Xmx in spec.runtimeAttributes"));
    processor.wait_ready();
    assert_eq!(processor.post("/", "next").text(), "4");
}

#[test]
fn a_stop_lets_java_events_finish_and_closes_the_handler() {
    let source = "import io.nuclio.*;
        public class Handler implements EventHandler, ContextInitializer, AutoCloseable {
            private Logger logger;
            public void initContext(Context context) { logger = context.getLogger(); }
            public void close() { logger.warn(\"closed\"); }
            public Response handleEvent(Context context, Event event) {
                logger.warn(\"holding\");
                try { Thread.sleep(300); } catch (InterruptedException error) { throw new RuntimeException(error); }
                return new Response().setBody(\"finished\");
            }
        }";
    let Some(setup) = Setup::java_text(source) else { return };
    let mut processor = setup.start();
    let answer = processor.send("/", "");
    processor.stdout.wait_for_record("holding");
    processor.signal(15);
    assert_eq!(answer.join().unwrap().text(), "finished");
    assert_eq!(processor.end().code(), Some(0));
    processor.stdout.wait_for_record("closed");
}

/// A class with this head and these members, which is a handler if its head says so.
fn class(head: &str, members: &str) -> String {
    format!("import io.nuclio.*;\npublic {head} {{\n{members}\n{}\n}}\n", method("return new Response();"))
}

#[test]
fn what_is_wrong_with_a_java_handler_is_said_at_the_start() {
    let handler = "class Handler implements EventHandler";
    let cases: &[(&str, String, &[&str])] = &[
        (
            "Handler",
            class(handler, "int wrong = \"text\";"),
            &["cannot be compiled", "Handler.java:3", "incompatible types"],
        ),
        (
            "Handler",
            class(handler, "static { if (true) throw new IllegalStateException(\"at class init\"); }"),
            &["failed to initialize", "at class init", "Handler.java:3"],
        ),
        (
            "Handler",
            class(handler, "public Handler() { throw new IllegalStateException(\"in the constructor\"); }"),
            &["the constructor of Handler failed", "in the constructor", "Handler.java:3"],
        ),
        (
            "Handler",
            class(
                "class Handler implements EventHandler, ContextInitializer",
                "public void initContext(Context context) throws Exception { throw new Exception(\"in init\"); }",
            ),
            &["initContext failed", "in init", "Handler.java:3"],
        ),
        ("Handler", class(handler, "static { System.exit(5); }"), &["exited with code 5"]),
        (
            "Handler",
            class(
                "class Handler implements EventHandler, ContextInitializer",
                "public void initContext(Context context) { System.err.println(\"last words\"); System.exit(0); }",
            ),
            &["exited with code 0", "last words"],
        ),
    ];
    said_at_the_start(cases, Setup::java_text);
}

#[test]
fn java_classes_that_are_no_handler_or_not_the_only_one_are_named_at_the_start() {
    let handler = "class Handler implements EventHandler";
    let cases: &[(&str, String, &[&str])] = &[
        ("Handler", class(handler, "public Handler(int number) {}"), &["no constructor without arguments"]),
        ("Handler", class("abstract class Handler implements EventHandler", ""), &["Handler is abstract"]),
        (
            "Handler",
            class("class Handler", "")
                .replace("Response handleEvent", "String handle")
                .replace("new Response()", "null"),
            &["class Handler does not implement io.nuclio.EventHandler; correct spec.handler"],
        ),
        (
            "module:Absent",
            class(handler, ""),
            &[
                "no class \"Absent\" in",
                "Handler.java; these implement",
                "EventHandler: Handler; correct spec.handler",
            ],
        ),
        (
            "",
            class(handler, "")
                + &class("class Other extends Handler", "")
                    .replace("import io.nuclio.*;", "")
                    .replace("public class", "class"),
            &[
                "the handler is not said and there is not exactly one",
                "Handler, Other; name its class in spec.handler",
            ],
        ),
        ("", "class Handler {}".to_owned(), &["no class there implements io.nuclio.EventHandler"]),
    ];
    said_at_the_start(cases, Setup::java_text);
}

#[test]
fn of_a_folder_of_java_classes_the_only_handler_is_taken_and_a_jar_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let Some(setup) = Setup::java("", folder.path()) else { return };
    let source = format!("package f;\n{}", class("class Only implements EventHandler", ""));
    let file = folder.path().join("Only.java");
    std::fs::write(&file, source).unwrap();
    built(&file, &folder.path().join("only.jar")).unwrap();
    std::fs::write(folder.path().join("broken.jar"), "no jar").unwrap();
    assert_eq!(setup.start().get("/").text(), "");
    let mut processor = Setup::java("f.Wrong", folder.path()).unwrap().no_wait().start();
    assert_eq!(processor.end().code(), Some(1));
    let said = processor.stderr.text();
    for text in ["no class \"f.Wrong\"", "EventHandler: f.Only", "cannot be read", "broken.jar (zip"] {
        assert!(said.contains(text), "{text:?} is not in:\n{said}");
    }
    let jar = folder.path().join("only.jar");
    let mut processor = Setup::java("f.Wrong", &jar).unwrap().no_wait().start();
    assert_eq!(processor.end().code(), Some(1));
    let (said, text) = (processor.stderr.text(), format!("no class \"f.Wrong\" in {}, ", jar.display()));
    assert!(said.contains(&text) && said.contains("correct spec.handler"), "{text:?} is not in:\n{said}");
}

#[test]
fn a_java_or_a_shim_that_is_not_there_is_named() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("PATH", "/nowhere")], "Can't find java executable"),
        (&[("NUCLIO_WRAPPER_JAR", "/nowhere/w.jar")], "Can't find wrapper at \"/nowhere/w.jar\""),
        (&[], "Can't find wrapper at \"/opt/nuclio/nuclio-java-wrapper.jar\""),
        (&[("NUCLIO_SHIM_SOURCE", "embedded")], "this binary carries no java shim"),
    ];
    for (environment, text) in cases {
        if Command::new("java").arg("-version").output().is_err()
            && environment.iter().all(|(name, _)| *name != "PATH")
        {
            println!("skipped: no Java");
            return;
        }
        let setup = Setup::new("java", "Handler").no_wait();
        let mut processor =
            environment.iter().fold(setup, |setup, (name, value)| setup.env(name, value)).start();
        assert_eq!(processor.end().code(), Some(1), "{text}");
        let said = processor.stderr.text();
        assert!(said.contains(text), "{text} is not in:\n{said}");
    }
}

#[test]
fn java_examples_answer() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/java");
    for (file, path, body, expected) in [
        ("hello/Hello.java", "/?name=you", "", "Hello, you"),
        ("init_context/Greeting.java", "/", "you", "Good day, you"),
        ("logging/Visit.java", "/", "", "logged"),
        ("stream/Count.java", "/", "", "1\n2\n3\n4\n5\n"),
    ] {
        let class = file.split(['/', '.']).nth(1).unwrap();
        let Some(setup) = Setup::java(class, &folder.join(file)) else { return };
        let processor = setup.env("GREETING", "Good day").start();
        assert_eq!(processor.post(path, body).text(), expected, "{file}");
    }
}

#[test]
fn dev_serves_java_sources_and_jars() {
    let Some(wrapper) = wrapper() else { return };
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("Hello.java");
    let text = "import io.nuclio.*;\npublic class Hello implements EventHandler {\n\
        public Response handleEvent(Context context, Event event) { return new Response().setBody(\"hello\"); }\n}\n";
    std::fs::write(&source, text).unwrap();
    let jar = folder.path().join("any-name.jar");
    built(&source, &jar).unwrap();
    for file in [source, jar] {
        serves(&file, Some(("NUCLIO_WRAPPER_JAR", wrapper.as_os_str())), "hello");
    }
}
