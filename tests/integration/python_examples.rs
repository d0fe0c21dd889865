//! Examples of Python handlers and applications as they stand, where no other file has them.

use std::path::Path;

use serde_json::json;

use crate::harness::{Processor, Setup};

fn post(processor: &Processor, path: &str, content_type: &str, body: &str) -> crate::harness::Answer {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: t\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    processor.request(&head, body.as_bytes())
}

#[test]
fn the_example_of_a_kafka_handler_gets_records_over_http() {
    let setup = Setup::new("python", "orders:handler");
    setup.write("orders.py", include_str!("../../examples/python/kafka/orders.py"));
    let processor = setup.python_environment().start();
    let send = |offset: u32| {
        let record = json!({
            "cloudEventsVersion": "0.1", "eventID": "1", "eventType": "order", "source": "kafka-cluster",
            "offset": offset, "data": r#"{"id": 5}"#, "extensions": {"topic": "orders", "partition": 2},
        });
        post(&processor, "/", "application/cloudevents+json", &record.to_string()).json()
    };
    let handled =
        json!({"order": 5, "topic": "orders", "partition": 2, "offset": 7, "trigger": "kafka-cluster"});
    assert_eq!(send(7), handled);
    assert_eq!(send(7), json!({"skipped": 7}), "delivered twice");
    assert_eq!(send(8)["offset"], 8);
    processor.stdout.wait_for_record("Handled");
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn the_django_example_stores_and_streams() {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/python-web");
    if !place.join("complete").exists() {
        return println!("skipped: Django is not installed (scripts/test installs it)");
    }
    let setup = Setup::new("python", "shop:app");
    setup.write("shop.py", include_str!("../../examples/python/django/shop.py"));
    let interpreter = place.join("bin/python3").display().to_string();
    let processor = setup.python_environment().env("NUCLIO_PYTHON_EXE_PATH", &interpreter).start();
    assert_eq!(processor.get("/?name=Ada").json(), json!({"hello": "Ada"}));
    let form = "application/x-www-form-urlencoded";
    assert_eq!(post(&processor, "/items/cup", form, "price=3").status, 201);
    assert_eq!(processor.get("/items/cup").json(), json!({"price": "3"}));
    assert_eq!(processor.get("/items/none").status, 404);
    assert_eq!(processor.get("/numbers?to=4").text(), "0\n1\n2\n3\n");
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn the_example_of_a_stream_sends_its_items_in_chunks() {
    let setup = Setup::new("python", "count:handler");
    setup.write("count.py", include_str!("../../examples/python/stream/count.py"));
    let processor = setup.python_environment().start();
    let mut client = crate::harness::Client::connect(processor.http());
    client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!(client.read_head().unwrap().status, 200);
    let mut text = String::new();
    while let Some(piece) = client.read_chunk().unwrap() {
        text += std::str::from_utf8(&piece).unwrap();
    }
    assert_eq!(text, "1\n2\n3\n4\n5\n");
}
