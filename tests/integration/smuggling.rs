//! Bytes that two readers could read differently, one named case each (`tests/vectors/smuggling.json`): refused, or
//! read in the one way that RFC 9110 and 9112 leave.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Client, Processor, Setup};

const HANDLER: &str = "
def handler(context, event):
    body = (event.body or b'').decode('latin-1')
    return context.Response(body=('%s %s %s' % (event.method, event.path, body)).encode('latin-1'))
";

/// What a case lacks, if anything.
fn judge(processor: &Processor, case: &Value) -> Result<(), String> {
    let mut client = Client::connect(processor.http());
    client.stream().set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let raw: Vec<u8> =
        case["raw"].as_str().unwrap().chars().map(|byte| u8::try_from(byte as u32).unwrap()).collect();
    client.send(&raw);
    for (place, expected) in case["answers"].as_array().unwrap().iter().enumerate() {
        let answer = client.read_answer(false).map_err(|error| format!("no answer {place}: {error}"))?;
        if expected["status"] != answer.status {
            return Err(format!("answer {place} is {} {:?}", answer.status, answer.text()));
        }
        if expected["body"].as_str().is_some_and(|body| body != answer.text()) {
            return Err(format!("answer {place} has the body {:?}", answer.text()));
        }
        // One of the parser's own behind another answer is bare.
        if answer.status != 200
            && place == 0
            && (answer.header("Server"), answer.body.is_empty()) != (Some("nuclio"), false)
        {
            return Err(format!("answer {place} does not say what it is: {answer:?}"));
        }
    }
    if case["then"] == "closes" {
        if !client.is_closed() {
            return Err(format!("more follows: {:?}", client.read_answer(false)));
        }
        return Ok(());
    }
    client.send(b"POST /next HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody");
    match client.read_answer(false) {
        Ok(answer) if answer.text() == "POST /next body" => Ok(()),
        other => Err(format!("the next request gets {other:?}")),
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_refused_or_read_in_the_right_one() {
    let vectors: Value = serde_json::from_str(include_str!("../vectors/smuggling.json")).unwrap();
    let processor = Setup::python(HANDLER).start();
    let mut failed = Vec::new();
    for case in vectors["cases"].as_array().unwrap() {
        if let Err(fault) = judge(&processor, case) {
            failed.push(format!("{}: {fault}", case["name"]));
        }
    }
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
    assert_eq!(processor.get("/x").text(), "GET /x ");
}
