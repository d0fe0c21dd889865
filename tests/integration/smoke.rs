//! The least that must work.

use serde_json::json;

use crate::harness::{Setup, get};

#[test]
fn the_builtin_handler_answers() {
    let processor = Setup::builtin().start();
    let answer = processor.get("/");
    assert_eq!((answer.status, answer.text().as_str()), (200, "Built in handler called"));
    assert_eq!(answer.header("Server"), Some("nuclio"));
}

#[test]
fn a_python_handler_answers() {
    let processor = Setup::python("def handler(context, event):\n    return event.body\n").start();
    let answer = processor.request("POST /x HTTP/1.1\r\nContent-Length: 5\r\n\r\n", b"hello");
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
}

#[test]
fn a_function_without_an_http_trigger_answers_probes_on_8080() {
    if std::net::TcpListener::bind(("0.0.0.0", 8080)).is_err() {
        println!("skipped: port 8080 is taken, and the platform knows no other");
        return;
    }
    let mut setup = Setup::builtin().spec(json!({"disableDefaultHTTPTrigger": true}));
    setup.function["spec"]["triggers"] = json!({});
    let _processor = setup.start();
    let answer = get(8080, "/__internal/health").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    assert_eq!(answer.header("Content-Type"), Some("text/plain; charset=utf-8"));
    assert_eq!(get(8080, "/").unwrap().status, 404);
}
