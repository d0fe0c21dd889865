//! The least that must work.

use crate::harness::Setup;

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
