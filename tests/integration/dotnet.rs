//! What only .NET handlers do: habits of functions in the wild, tasks, several events at a time, and everything that can
//! be wrong with an assembly.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::dotnet_build::{build, dotnet, dotnet_function, fixtures};
use crate::harness::{Client, Ports, Processor, Setup, free_port, get, processor_bin, wait_until};

/// A method of the class `More`.
fn setup(method: &str) -> Option<Setup> {
    let mut setup = Setup::dotnet("More")?;
    setup.function["spec"]["handler"] = json!(format!("More:{method}"));
    Some(setup)
}

fn start(method: &str) -> Option<Processor> {
    setup(method).map(Setup::start)
}

#[test]
fn a_dotnet_handler_finds_headers_by_their_canonical_names_an_empty_url_and_an_empty_body() {
    let Some(processor) = start("Url") else { return };
    assert_eq!(processor.request("GET / HTTP/1.1\r\nx-ask: 1\r\n\r\n", b"").text(), "True False [] [] 0");
}

#[test]
fn a_dotnet_handler_may_give_request_headers_back() {
    let Some(processor) = start("HeadersBack") else { return };
    let answer = processor.request(
        "POST / HTTP/1.1\r\nX-One: 1\r\nContent-Type: text/x\r\nContent-Length: 9\r\n\r\n",
        b"123456789",
    );
    assert_eq!((answer.status, answer.text().as_str()), (200, "back"));
    assert_eq!((answer.values("X-One"), answer.values("Content-Length")), (vec!["1"], vec!["4"]));
}

#[test]
fn exceptions_that_cannot_even_be_shown_and_impossible_answers_fail_their_event_alone() {
    let Some(processor) = start("Odd") else { return };
    for (path, text) in
        [("/throw", "Odd"), ("/return", "Odd"), ("/task", "Odd"), ("/many", "has 70000 headers")]
    {
        let answer = processor.get(path);
        assert!(answer.status == 500 && answer.text().contains(text), "{path}: {}", answer.text());
    }
    let answer = processor.get("/values");
    assert_eq!((answer.values("X-Bytes"), answer.values("X-Map")), (vec!["bytes"], vec![]));
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn a_body_that_dotnet_has_no_memory_for_fails_its_event_alone() {
    let Some(setup) = setup("Odd") else { return };
    // 64 MiB; both names, for old and new releases.
    let setup = setup.env("COMPlus_GCHeapHardLimit", "4000000").env("DOTNET_GCHeapHardLimit", "4000000");
    let processor = setup.trigger(json!({"attributes": {"maxRequestBodySize": 200 << 20}})).start();
    for (size, status) in [(16 << 20, 200), (100 << 20, 500), (4, 200)] {
        let answer = processor.post("/", &"x".repeat(size));
        assert_eq!(answer.status, status, "{}", answer.text());
        let text = if status == 200 { size.to_string() } else { "OutOfMemoryException".to_owned() };
        assert!(answer.text().contains(&text), "{}", answer.text());
    }
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn a_dotnet_handler_changes_the_body_and_logs_text_that_is_not_ascii() {
    let Some(processor) = start("Reverse") else { return };
    assert_eq!(processor.post("/", "grüß").text(), "ßürg");
    processor.stdout.wait_for_record("Umgedreht: ßürg – größer");
}

#[test]
fn a_dotnet_handler_answers_with_bytes_and_their_type() {
    let Some(processor) = start("Image") else { return };
    let answer = processor.get("/");
    assert_eq!(
        (answer.values("Content-Type"), answer.body.as_slice()),
        (vec!["image/jpeg"], &[0xff, 0xd8, 0][..])
    );
}

#[test]
fn two_dotnet_workers_take_images_of_several_megabytes_in_json() {
    let Some(setup) = setup("Json") else { return };
    let trigger = json!({"numWorkers": 2, "attributes": {"maxRequestBodySize": 33_554_432}});
    let processor = setup.trigger(trigger).start();
    let body = format!("{{\"image\": \"{}\"}}", "QUJD".repeat(1 << 20));
    let answers: Vec<_> = (0..4).map(|_| processor.send("/", &body)).collect();
    for answer in answers {
        assert_eq!(answer.join().unwrap().json(), json!({"bytes": 3 << 20}));
    }
}

#[test]
fn a_dotnet_worker_has_one_instance_and_one_context() {
    let Some(processor) = start("Count") else { return };
    assert_eq!(processor.get("/").text(), "1 1 conformance True 0");
    assert_eq!(processor.get("/").text(), "2 2 conformance True 0");
}

#[test]
fn tasks_are_awaited_whatever_form_they_have() {
    for (method, path, status, text) in [
        ("LateTask", "/", 202, "late"),
        ("LateTask", "/throw", 500, "after the delay"),
        ("NoValue", "/", 200, ""),
        ("Value", "/", 200, "42"),
        ("Hidden", "/", 200, "of a task that is an object"),
        ("Nothing", "/", 200, ""),
    ] {
        let Some(processor) = start(method) else { return };
        let answer = processor.get(path);
        assert_eq!((answer.status, answer.text().as_str()), (status, text), "{method}");
        assert_eq!(answer.values("Content-Type"), ["text/plain"]);
    }
}

#[test]
fn a_dotnet_stream_is_sent_piece_by_piece() {
    let Some(processor) = start("File") else { return };
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/handlers.json");
    let answer = processor.post("/", file);
    assert_eq!(answer.values("Transfer-Encoding"), ["chunked"]);
    assert_eq!(answer.body, std::fs::read(file).unwrap());
    assert_eq!(processor.post("/", "/nowhere").status, 500);
}

#[test]
fn a_dotnet_handler_has_one_event_at_a_time_unless_the_mode_is_async() {
    let Some(one) = setup("Meet") else { return };
    let processor = one.start();
    let answers: Vec<_> = (0..2).map(|_| processor.send("/", "")).collect();
    answers.into_iter().for_each(|answer| assert_eq!(answer.join().unwrap().text(), "1"));
    let Some(several) = setup("Meet") else { return };
    let processor = several.trigger(json!({"mode": "async", "async": {"maxConnectionsNumber": 2}})).start();
    let answers: Vec<_> = (0..2).map(|_| processor.send("/", "")).collect();
    answers.into_iter().for_each(|answer| assert_eq!(answer.join().unwrap().text(), "2"));
}

#[test]
fn records_of_several_dotnet_events_belong_to_their_own() {
    let Some(setup) = setup("Meet") else { return };
    let processor = setup.trigger(json!({"mode": "async", "async": {"maxConnectionsNumber": 2}})).start();
    let ask = |path: &'static str| {
        let address = processor.http();
        std::thread::spawn(move || {
            let mut client = Client::connect(address);
            client.send(
                format!("GET {path} HTTP/1.1\r\nHost: t\r\nX-Nuclio-Log-Level: debug\r\n\r\n").as_bytes(),
            );
            client.read_answer(false).unwrap()
        })
    };
    let answers = [("/a", ask("/a")), ("/b", ask("/b"))];
    for (path, answer) in answers {
        let answer = answer.join().unwrap();
        let records: serde_json::Value =
            serde_json::from_str(answer.header("X-Nuclio-Logs").unwrap()).unwrap();
        let shown: Vec<_> =
            records.as_array().unwrap().iter().map(|record| record["message"].as_str().unwrap()).collect();
        assert_eq!(shown, [format!("begun {path}"), format!("ended {path}")]);
    }
}

#[test]
fn of_several_dotnet_events_one_that_times_out_leaves_the_others_alone() {
    let Some(setup) = setup("Meet") else { return };
    let several = json!({"mode": "async", "async": {"maxConnectionsNumber": 3}});
    let processor = setup.trigger(several).spec(json!({"eventTimeout": "500ms"})).start();
    assert_eq!(processor.get("/hang").status, 408);
    processor.stdout.wait_for_record("told /hang");
    let answers: Vec<_> = (0..2).map(|_| processor.send("/", "")).collect();
    answers.into_iter().for_each(|answer| assert_eq!(answer.join().unwrap().text(), "2"));
    assert_eq!(processor.all_restarts(), 0);
    processor.wait_in_flight(0);
}

#[test]
fn a_dotnet_handler_that_is_not_asynchronous_is_told_of_a_client_that_leaves() {
    let Some(processor) = start("Waits") else { return };
    // Twice: the thread that has read before takes its turn again.
    for _ in 0..2 {
        assert_eq!(processor.get("/").text(), "fine");
        let before = processor.stdout.records().len();
        let mut client = Client::connect(processor.http());
        client.send_post("/wait", b"");
        wait_until("it waits", || {
            processor.stdout.records()[before..].iter().any(|one| one["message"] == "waiting")
        });
        client.reset();
        let told =
            || processor.stdout.records()[before..].iter().any(|one| one["message"] == "no longer waiting");
        wait_until("it is told", told);
        processor.wait_in_flight(0);
    }
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn fields_of_dotnet_records_may_be_anything() {
    let Some(processor) = start("Fields") else { return };
    assert_eq!(processor.get("/").text(), "logged");
    let record = processor.stdout.wait_for_record("odd fields");
    let more = &record["more"];
    assert!(more["cycle"].as_str().unwrap().contains("Node"), "{record}");
    assert!(more["error"].as_str().unwrap().contains("FormatException: inside"), "{record}");
    assert_eq!(
        (&more["list"], &more["7"], &more["half"]),
        (&json!([1, 2]), &json!(true), &json!("\u{fffd}"))
    );
    assert_eq!((more.get("none"), more.get("alone")), (Some(&json!(null)), Some(&json!(null))));
}

#[test]
fn output_of_a_dotnet_handler_goes_to_standard_output_and_its_children_do_not_get_the_socket() {
    let Some(processor) = start("Output") else { return };
    let listing = processor.get("/").text();
    assert!(listing.contains("/dev/null") && !listing.contains("3 -> socket"), "{listing}");
    processor.stdout.wait_for("the line", |line| line == "from the console");
    processor.stdout.wait_for("the line", |line| line == "from the error console");
}

#[test]
fn an_exception_of_another_thread_and_a_stack_overflow_end_the_worker_and_say_so() {
    for (method, path, shown) in [
        ("Background", "/thread", ["of the background", "More.cs:line"]),
        // Older releases of .NET show no stack here.
        ("Deep", "/deep", ["Stack overflow", "Stack overflow"]),
    ] {
        let Some(processor) = start(method) else { return };
        let answer = processor.get(path);
        assert!(answer.status == 500 || answer.text() == "answered", "{}", answer.text());
        wait_until("it is counted", || processor.restarts("signal") == 1);
        for shown in shown {
            processor.stdout.wait_for("the reason", |line| line.contains(shown));
        }
        processor.wait_ready();
        assert_eq!(processor.get("/").status, 200);
    }
}

#[test]
fn a_stop_lets_a_dotnet_event_finish_and_runs_the_termination_callback() {
    let Some(mut processor) = start("Stops") else { return };
    let answer = processor.send("/", "");
    processor.stdout.wait_for_record("holding");
    processor.signal(15);
    assert_eq!(answer.join().unwrap().text(), "finished");
    assert_eq!(processor.end().code(), Some(0));
    processor.stdout.wait_for_record("terminated");
}

#[test]
fn bytes_that_are_no_text_come_as_replacement_characters() {
    let Some(processor) = start("Gray") else { return };
    let answer = processor.request("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n", &[b'a', 0xff, b'b']);
    assert_eq!(answer.text(), "a\u{fffd}b");
}

#[test]
fn unusual_classes_are_served_as_the_go_processor_does() {
    for (handler, text) in [
        ("InitLater:Handle", "awaited"),
        ("NoConstructor:Handle", "called"),
        ("InitDiffers:Handle", "called"),
        ("Inside.Spaced:Handle", "by its name"),
        ("Spaced:Handle", "by its name"),
    ] {
        let Some(mut setup) = Setup::dotnet("More") else { return };
        setup.function["spec"]["handler"] = json!(handler);
        assert_eq!(setup.start().get("/").text(), text, "{handler}");
    }
}

#[test]
fn what_is_wrong_with_a_dotnet_handler_is_said_at_the_start() {
    let cases: &[(&str, &[&str])] = &[
        ("More", &["does not have the form Class:Method"]),
        ("a:b:c", &["does not have the form Class:Method"]),
        ("Absent:Handle", &["no class \"Absent\"", "handler.dll", "Garbage"]),
        ("More:Absent", &["no method \"Absent\" in More", "Reverse", "Nuclio.Sdk.Event"]),
        ("More:Inner", &["Inner", "does not fit", "a public one"]),
        ("More:OneArgument", &["OneArgument", "does not fit"]),
        ("More:Span", &["cannot be an answer"]),
        ("Statically:Handle", &["failed to load handler", "FormatException", "More.cs:line"]),
        ("Constructed:Handle", &["failed to load handler", "in the constructor", "More.cs:line"]),
        ("InitFails:Handle", &["InitContext failed", "in InitContext", "More.cs:line"]),
        ("InitExits:Handle", &["exited with code 5"]),
    ];
    std::thread::scope(|scope| {
        for (handler, texts) in cases {
            scope.spawn(move || {
                let Some(mut setup) = Setup::dotnet("More") else { return };
                setup.function["spec"]["handler"] = json!(handler);
                says_at_the_start(setup, texts);
            });
        }
    });
}

fn says_at_the_start(setup: Setup, texts: &[&str]) {
    let mut processor = setup.no_wait().start();
    assert_eq!(processor.end().code(), Some(1), "{texts:?}");
    let said = processor.stderr.text();
    for text in texts {
        assert!(said.contains(text), "{text:?} is not in:\n{said}");
    }
}

#[test]
fn what_is_missing_of_a_dotnet_function_is_named() {
    let Some(built) = fixtures() else { return };
    let with = |name: &str, value: &str| {
        Setup::new("dotnetcore", "More:Url").dotnet_environment(&built).env(name, value)
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    says_at_the_start(with("NUCLIO_HANDLER_DIR", &path), &["no file", &format!("{path}/handler.dll")]);
    std::fs::write(folder.path().join("handler.dll"), "text").unwrap();
    says_at_the_start(with("NUCLIO_HANDLER_DIR", &path), &["handler.dll is no assembly of .NET"]);
    let missing = ["Can't find wrapper at \"/nowhere/wrapper.dll\"", "NUCLIO_DOTNETCORE_WRAPPER_PATH"];
    says_at_the_start(with("NUCLIO_DOTNETCORE_WRAPPER_PATH", "/nowhere/wrapper.dll"), &missing);
    says_at_the_start(with("NUCLIO_SHIM_SOURCE", "embedded"), &["this binary carries no dotnetcore shim"]);
    let nothing = ["Can't find dotnetcore executable", "no dotnet in PATH", "install it"];
    says_at_the_start(with("PATH", &path), &nothing);
}

/// Built as for a framework that does not exist yet: the version of `System.Runtime` is changed in what it refers to.
#[test]
fn a_dotnet_handler_for_a_newer_framework_is_told_so() {
    let Some(built) = fixtures() else { return };
    let mut assembly = std::fs::read(built.join("handler/handler.dll")).unwrap();
    let version = [4, 0, 2, 0, 2, 0, 0, 0]; // of .NET Core 3.1: 4.2.2.0
    let Some(at) = assembly.windows(version.len()).position(|bytes| bytes == version) else {
        println!("skipped: the handlers are not built for .NET Core 3.1");
        return;
    };
    assembly[at] = 99;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("handler.dll"), assembly).unwrap();
    let setup = Setup::new("dotnetcore", "More:Url").dotnet_environment(&built);
    let setup = setup.env("NUCLIO_HANDLER_DIR", &folder.path().display().to_string());
    says_at_the_start(setup, &["built for a newer .NET", "System.Runtime, Version=99", "TargetFramework"]);
}

#[test]
fn a_dotnet_wrapper_without_the_marker_beside_it_is_driven_over_protocol_1() {
    let Some(built) = fixtures() else { return };
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(built.join("wrapper")).unwrap().flatten() {
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let start = || {
        let wrapper = folder.path().join("wrapper.dll").display().to_string();
        let setup = Setup::new("dotnetcore", "More:Reverse").dotnet_environment(&built);
        setup.env("NUCLIO_DOTNETCORE_WRAPPER_PATH", &wrapper).start()
    };
    let processor = start();
    assert_eq!(processor.stdout.wait_for_record("Using the shim in the image")["more"]["protocol"], 2);
    assert_eq!(processor.post("/", "grüß").text(), "ßürg");
    std::fs::remove_file(folder.path().join("wrapper.dll.shim")).unwrap();
    let processor = start();
    assert_eq!(
        processor.stdout.wait_for_record("Using the wrapper of the Go processor")["more"]["protocol"],
        1
    );
    assert_eq!(processor.post("/", "grüß").text(), "ßürg");
    processor.stdout.wait_for_record("Umgedreht: ßürg – größer");
}

/// The published SDK has other versions; a function brings assemblies of its own, one of them by a project.
#[test]
fn functions_bind_to_the_sdk_whatever_its_version_and_bring_their_own_assemblies() {
    let Some(path) = dotnet() else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new("dotnet")
            .args(arguments)
            .env("PATH", path)
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    };
    let copy = Command::new("cp")
        .arg("-R")
        .arg(root.join("runtimes/dotnetcore/nuclio-sdk-dotnetcore"))
        .arg(folder.path())
        .status();
    assert!(copy.unwrap().success());
    std::fs::create_dir(folder.path().join("library")).unwrap();
    std::fs::write(
        folder.path().join("library/Library.cs"),
        "public class Library { public static string Text => \"of the neighbour\"; }",
    )
    .unwrap();
    std::fs::copy(
        root.join("runtimes/dotnetcore/handler.csproj"),
        folder.path().join("library/library.csproj"),
    )
    .unwrap();
    run(&["build", "nuclio-sdk-dotnetcore", "-o", "sdk", "-p:AssemblyVersion=9.8.7.6", "-v", "quiet"]);
    run(&["build", "library", "-o", "lib", "-v", "quiet"]);
    let place = folder.path().display();
    let project = format!(
        "<Project Sdk=\"Microsoft.NET.Sdk\">
           <PropertyGroup><TargetFramework Condition=\"'$(TargetFramework)' == ''\">netcoreapp3.1</TargetFramework></PropertyGroup>
           <ItemGroup>
             <Reference Remove=\"nuclio-sdk-dotnetcore\" />
             <Reference Include=\"nuclio-sdk-dotnetcore\"><HintPath>{place}/sdk/nuclio-sdk-dotnetcore.dll</HintPath></Reference>
             <Reference Include=\"library\"><HintPath>{place}/lib/library.dll</HintPath></Reference>
           </ItemGroup>
         </Project>"
    );
    let source = "using Nuclio.Sdk;
        public class Own { public string Handle(Context c, Event e) =>
            Library.Text + \" \" + string.Join(\",\", System.Linq.Enumerable.Select(System.Linq.Enumerable.Where(
                typeof(Own).Assembly.GetReferencedAssemblies(), a => a.Name == \"nuclio-sdk-dotnetcore\"), a => a.Version)); }";
    let files = [("own.csproj".to_owned(), project), ("Own.cs".to_owned(), source.to_owned())];
    let Some(built) = dotnet_function("own", &files) else { return };
    let processor = Setup::new("dotnetcore", "Own:Handle").dotnet_environment(&built).start();
    assert_eq!(processor.get("/").text(), "of the neighbour 9.8.7.6");
}

#[test]
fn the_builder_says_what_it_wants() {
    let Some(path) = dotnet() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (arguments, text) in [
        (&[][..], "say where to with -o"),
        (&[Path::new("-o"), folder.path(), Path::new("/nowhere")], "/nowhere is not a folder"),
        (&[Path::new("--what")], "unknown argument --what"),
    ] {
        let output = build(path, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(text), "{said}");
    }
}

#[test]
fn the_dotnet_example_says_hello_under_dev() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = std::fs::read_to_string(root.join("examples/dotnetcore/hello/Handler.cs")).unwrap();
    let Some(built) = dotnet_function("hello", &[("Handler.cs".to_owned(), source)]) else { return };
    let ports = Ports { http: free_port(), health: 0, admin: 0, metrics: 0 };
    let mut command = Command::new(processor_bin());
    command.args(["dev", "--port", &ports.http.to_string()]).arg(built.join("handler/handler.dll"));
    command.env("PATH", dotnet().unwrap_or_default());
    let mut processor = Processor::spawn(command, ports, tempfile::tempdir().unwrap());
    wait_until("it answers", || get(ports.http, "/").is_ok_and(|answer| answer.text() == "Hello, world"));
    assert_eq!(get(ports.http, "/?name=you").unwrap().text(), "Hello, you");
    processor.signal(2);
    assert_eq!(processor.end().code(), Some(0));
}
