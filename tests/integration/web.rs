//! Web applications of the frameworks that people use, over real sockets. What the protocol's details are is tested
//! beside the shim, with applications of its own (`runtimes/python/test_web.py`).

use std::path::Path;

use serde_json::json;

use crate::harness::{Answer, Client, Processor, Setup};

/// An application behind the interpreter that has the frameworks; `None`: they are not installed.
fn application(handler: &str, files: &[(&str, &str)]) -> Option<Setup> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/python-web");
    if !place.join("complete").exists() {
        println!("skipped: FastAPI, Flask and Django are not installed (scripts/test installs them)");
        return None;
    }
    let setup = Setup::new("python", handler);
    for (name, text) in files {
        setup.write(name, text);
    }
    let interpreter = place.join("bin/python3").display().to_string();
    Some(setup.python_environment().env("NUCLIO_PYTHON_EXE_PATH", &interpreter))
}

fn ask(processor: &Processor, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: shop.example\r\n{headers}{length}\r\n");
    processor.request(&head, body.as_bytes())
}

const FASTAPI: &str = include_str!("../../examples/python/fastapi/app.py");

#[test]
fn the_fastapi_example_validates_streams_and_goes_on_behind_its_answers() {
    let Some(setup) = application("app:app", &[("app.py", FASTAPI)]) else { return };
    let processor = setup.start();
    let get = |path: &str| ask(&processor, "GET", path, "", "");
    assert_eq!(get("/").json(), json!({"hello": "world"}));
    let json = "Content-Type: application/json\r\n";
    assert_eq!(ask(&processor, "PUT", "/items/a%20b", json, r#"{"name": "cup", "price": 3}"#).status, 201);
    // Behind the answer, and then in a thread.
    let found = (0..50).map(|_| get("/items/a%20b")).find(|answer| answer.status == 200).unwrap();
    assert_eq!(found.json(), json!({"name": "cup", "price": 3.0}));
    assert_eq!(ask(&processor, "PUT", "/items/b", json, r#"{"name": 5}"#).status, 422);
    assert_eq!(get("/items/none").json(), json!({"detail": "no such item"}));
    assert_eq!(get("/ticks").text(), "data: 0\n\ndata: 1\n\ndata: 2\n\n");
    assert_eq!(get("/docs").status, 200);
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn the_flask_example_keeps_a_session_and_shows_where_it_fails() {
    let flask = include_str!("../../examples/python/flask/app.py");
    let Some(setup) = application("app:app", &[("app.py", flask)]) else { return };
    let processor = setup.start();
    let get = |path: &str, headers: &str| ask(&processor, "GET", path, headers, "");
    assert_eq!(get("/", "").text(), "Hello, world!\n");
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let named = ask(&processor, "POST", "/name", form, "name=Ada");
    assert_eq!((named.status, named.text().as_str()), (204, ""));
    let cookie = named.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    assert_eq!(get("/", &format!("Cookie: {cookie}\r\n")).text(), "Hello, Ada!\n");
    assert_eq!(ask(&processor, "POST", "/size", "", &"x".repeat(1_000_000)).text(), "1000000");
    assert_eq!(get("/numbers?to=4", "").text(), "0\n1\n2\n3\n");
    assert_eq!(get("/fails", "").status, 500);
    processor
        .stdout
        .wait_for("its own warning", |line| line.contains("this will fail") && line.contains("warn"));
    processor.stdout.wait_for("the traceback", |line| line.contains("ValueError: on purpose"));
    let head = ask(&processor, "HEAD", "/", "Connection: close\r\n", "");
    assert_eq!((head.header("content-length"), head.body.len()), (Some("14"), 0));
    assert_eq!(processor.all_restarts(), 0);
}

const SETTINGS: &str = "SECRET_KEY = 'x'\nROOT_URLCONF = 'shop.urls'\nALLOWED_HOSTS = ['shop.example']\n";
const URLS: &str = "from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

def where(request, name):
    return HttpResponse('%s %s %s' % (name, request.build_absolute_uri(), request.META['REMOTE_ADDR']))

def fails(request):
    raise ValueError('on purpose')

urlpatterns = [path('where/<name>', where), path('fails', fails)]
";

#[test]
fn django_runs_under_both_of_its_interfaces() {
    for (interface, class) in [("wsgi", "WSGI"), ("asgi", "ASGI")] {
        let entry = format!(
            "import os\nos.environ['DJANGO_SETTINGS_MODULE'] = 'shop.settings'\n\
             from django.core.{interface} import get_{interface}_application\n\
             application = get_{interface}_application()\n"
        );
        let file = format!("shop/{interface}.py");
        let files = [
            ("shop/__init__.py", ""),
            ("shop/settings.py", SETTINGS),
            ("shop/urls.py", URLS),
            (file.as_str(), entry.as_str()),
        ];
        let Some(setup) = application(&format!("shop.{interface}:application"), &files) else { return };
        let processor = setup.start();
        let answer = ask(&processor, "GET", "/where/%C3%A4?q=%20", "", "");
        assert_eq!(answer.text(), "ä http://shop.example/where/%C3%A4?q=%20 127.0.0.1", "{class}");
        assert_eq!(ask(&processor, "GET", "/fails", "", "").status, 500);
        processor.stdout.wait_for("the traceback", |line| line.contains("ValueError: on purpose"));
        let other = "GET /where/x HTTP/1.1\r\nHost: other.example\r\n\r\n";
        assert_eq!(processor.request(other, b"").status, 400, "Django's own check of the host");
        assert_eq!(processor.all_restarts(), 0);
    }
}

/// Raw applications need no framework.
fn raw(source: &str) -> Setup {
    let setup = Setup::new("python", "main:app");
    setup.write("main.py", source);
    setup.python_environment()
}

const RAW: &str = "
import asyncio
started = []
async def app(scope, receive, send):
    if scope['type'] == 'lifespan':
        while True:
            kind = (await receive())['type']
            open(__file__ + '.' + kind, 'x').close()
            await send({'type': kind + '.complete'})
            if kind == 'lifespan.shutdown': return
    path = scope['path']
    async def start(status=200, *headers):
        await send({'type': 'http.response.start', 'status': status, 'headers': headers})
    async def body(data=b'', more=False):
        await send({'type': 'http.response.body', 'body': data, 'more_body': more})
    if path == '/scope':
        await start()
        await body(repr([scope['http_version'], scope['client'][0], scope['raw_path'], scope['root_path']]).encode())
    elif path == '/cookies':
        await start(200, (b'set-cookie', b'a=1'), (b'set-cookie', b'b=2'))
        await body(b'plain')
    elif path == '/known':
        await start(200, (b'content-length', b'4'))
        await body(b'ab', True)
        await body(b'cd')
    elif path == '/short':
        await start(200, (b'content-length', b'4'))
        await body(b'ab', True)
        await asyncio.sleep(0.01)
        raise ValueError('closes early')
    elif path == '/meet':
        started.append(1)
        while len(started) < 20: await asyncio.sleep(0.01)
        await start()
        await body(b'met')
    elif path == '/never':
        await asyncio.sleep(600)
    else:
        message = await receive()
        await start()
        await body(message['body'])
";

#[test]
fn an_asgi_application_gets_requests_as_they_are_and_answers_go_out_as_it_says() {
    let processor = raw(RAW).start();
    let scope = processor.request("GET /%73cope HTTP/1.0\r\n\r\n", b"").text();
    assert_eq!(scope, "['1.0', '127.0.0.1', b'/%73cope', '']");
    let cookies = ask(&processor, "GET", "/cookies", "", "");
    assert_eq!((cookies.values("set-cookie"), cookies.header("content-type")), (vec!["a=1", "b=2"], None));
    let known = ask(&processor, "GET", "/known", "", "");
    assert_eq!((known.header("content-length"), known.text().as_str()), (Some("4"), "abcd"));
    let head = ask(&processor, "HEAD", "/known", "Connection: close\r\n", "");
    assert_eq!((head.header("content-length"), head.body.len()), (Some("4"), 0));
    let event = r#"{"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": 1}"#;
    let cloud = ask(&processor, "POST", "/echo", "Content-Type: application/cloudevents+json\r\n", event);
    assert_eq!(cloud.text(), event, "cloud events are the application's business");
}

#[test]
fn an_application_is_told_where_clients_see_it_and_a_path_that_cannot_be_is_refused() {
    let source = "def app(environ, start_response):\n    start_response('200 OK', [])\n    \
                  return [(environ['SCRIPT_NAME'] + ' ' + environ['PATH_INFO']).encode()]\n";
    let at = |path: &str| raw(source).spec(json!({"runtimeAttributes": {"rootPath": path}}));
    let processor = at("/shop").start();
    for path in ["/shop/a", "/a"] {
        assert_eq!(
            ask(&processor, "GET", path, "", "").text(),
            "/shop /a",
            "a proxy may have taken it off, or not"
        );
    }
    let mut refused = at("shop/").no_wait().start();
    assert_eq!(refused.end().code(), Some(1));
    assert!(refused.stderr.text().contains("spec.runtimeAttributes.rootPath"), "{}", refused.stderr.text());
}

#[test]
fn an_asgi_application_has_many_requests_at_once_on_one_worker_and_its_lifespan_ends_with_it() {
    let mut processor = raw(RAW).start();
    let answers: Vec<_> = (0..20).map(|_| processor.send("/meet", "")).collect();
    for answer in answers {
        assert_eq!(answer.join().unwrap().text(), "met");
    }
    assert_eq!(processor.children().len(), 1);
    let event = |name: &str| processor.directory.path().join(format!("main.py.lifespan.{name}"));
    let (startup, shutdown) = (event("startup"), event("shutdown"));
    assert!(startup.exists() && !shutdown.exists());
    processor.signal(libc::SIGTERM);
    assert_eq!(processor.wait().code(), Some(0));
    assert!(shutdown.exists());
}

#[test]
fn a_web_socket_is_refused_with_a_word_and_the_connection_serves_on() {
    let processor = raw(RAW).start();
    let mut client = Client::connect(processor.http());
    client.send(b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    let refused = client.read_answer(false).unwrap();
    assert_eq!(refused.status, 501);
    assert!(refused.text().contains("WebSocket is not served"), "{}", refused.text());
    client.send(b"GET /cookies HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.read_answer(false).unwrap().text(), "plain");
}

#[test]
fn an_application_that_never_answers_or_closes_early_costs_its_own_requests_only() {
    let processor = raw(RAW).spec(json!({"eventTimeout": "1s"})).start();
    let never = processor.send("/never", "");
    let mut client = Client::connect(processor.http());
    client.send(b"GET /short HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(client.read_answer(false).is_err(), "the connection is cut before the end");
    processor.stdout.wait_for("its traceback", |line| line.contains("ValueError: closes early"));
    assert_eq!(processor.post("/echo", "served").text(), "served");
    assert_eq!(never.join().unwrap().status, 408);
    assert_eq!(processor.post("/echo", "served").text(), "served");
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn an_application_that_cannot_start_ends_the_start_with_its_own_words() {
    let source = "async def app(scope, receive, send):\n    await receive()\n    \
                  await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n";
    for (source, said) in
        [(source, "no database"), ("app = 5\n", "neither a function handler(context, event)")]
    {
        let mut processor = raw(source).no_wait().start();
        assert_eq!(processor.end().code(), Some(1));
        let text = processor.stdout.text() + &processor.stderr.text();
        assert!(text.contains(said), "{text}");
    }
}
