//! `/triggers`: three pages that show and change nothing.

use serde_json::{Value, json};

use crate::harness::{Answer, Client, Processor, Setup, get};

fn ask(processor: &Processor, method: &str, path: &str) -> Answer {
    let mut client = Client::connect(([127, 0, 0, 1], processor.ports.admin).into());
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").as_bytes());
    client.read_answer(method == "HEAD").unwrap()
}

#[test]
fn stats_are_counters_and_workers_and_nothing_else() {
    let script = "
def each(id, path, body):
    if path == '/exit':
        os._exit(6)
    echo(id, path, body)
hello()
ready()
serve(each)
";
    let processor = Setup::fake_shim(script).start();
    (0..3).for_each(|_| assert_eq!(processor.get("/").status, 200));
    assert_eq!(processor.get("/exit").status, 500);
    processor.wait_ready();
    let answer = ask(&processor, "GET", "/triggers/default-http/stats");
    assert_eq!((answer.status, answer.header("Content-Type")), (200, Some("application/json")));
    let expected = concat!(
        r#"{"stats":{"success":3,"failure":1,"workers":["#,
        r#"{"id":0,"state":"ready","restarts":1,"events":4}]}}"#,
        "\n"
    );
    assert_eq!(answer.text(), expected);
    // A slash at the end changes nothing.
    assert_eq!(ask(&processor, "GET", "/triggers/default-http/stats/").text(), expected);
}

#[test]
fn other_methods_are_refused_and_change_nothing() {
    let processor = Setup::builtin().start();
    let pages = ["/triggers", "/triggers/default-http", "/triggers/default-http/stats"];
    let before = pages.map(|page| ask(&processor, "GET", page).text());
    for method in ["POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"] {
        for page in pages {
            let answer = ask(&processor, method, page);
            assert_eq!((answer.status, answer.header("Allow")), (405, Some("GET")), "{method} {page}");
            assert_eq!(answer.text(), "", "{method} {page}");
        }
    }
    assert_eq!(pages.map(|page| ask(&processor, "GET", page).text()), before);
    for page in ["/", "/trigger", "/triggers/default-http/stats/more", "/triggers/default-http/other"] {
        let answer = ask(&processor, "GET", page);
        assert_eq!((answer.status, answer.text().as_str()), (404, "404 page not found\n"), "{page}");
        assert_eq!(answer.header("X-Content-Type-Options"), Some("nosniff"));
    }
    let unknown = ask(&processor, "GET", "/triggers/nobody");
    assert_eq!((unknown.status, unknown.text().as_str()), (404, ""));
    assert_eq!(unknown.header("Content-Type"), Some("application/json"));
}

#[test]
fn names_are_found_however_they_are_escaped() {
    let triggers = json!({"two words": {"kind": "cron", "attributes": {"interval": "1h"}}, "a/ü%": {"kind": "kickstart"}});
    let processor = Setup::builtin().spec(json!({"triggers": triggers})).start();
    for (path, name) in [
        ("two%20words", "two words"),
        ("%74wo%20words", "two words"),
        ("a%2F%c3%BC%", "a/ü%"),
        ("a%2f%C3%bc%25", "a/ü%"),
    ] {
        let answer = ask(&processor, "GET", &format!("/triggers/{path}"));
        assert_eq!((answer.status, &answer.json()["name"]), (200, &json!(name)), "{path}");
        assert_eq!(ask(&processor, "GET", &format!("/triggers/{path}/stats")).status, 200, "{path}");
    }
}

#[test]
fn a_configuration_shows_what_the_trigger_does_and_no_secret() {
    let processor = Setup::builtin()
        .trigger(json!({
            "numWorkers": 3,
            "password": "hidden-password",
            "attributes": {"cors": {"enabled": true, "allowOrigins": ["https://a.example"]}},
        }))
        .spec(json!({"env": [{"name": "TOKEN", "value": "hidden-token"}]}))
        .start();
    let all = get(processor.ports.admin, "/triggers").unwrap();
    assert!(!all.text().contains("hidden"), "{}", all.text());
    let trigger = all.json()["default-http"].clone();
    assert_eq!(get(processor.ports.admin, "/triggers/default-http").unwrap().json(), trigger);
    for (key, value) in [
        ("kind", json!("http")),
        ("class", json!("sync")),
        ("name", json!("default-http")),
        ("numWorkers", json!(3)),
        ("url", json!(format!("127.0.0.1:{}", processor.ports.http))),
        ("ID", Value::Null),
    ] {
        assert_eq!(trigger[key], value, "{key}");
    }
    assert_eq!(trigger["cors"]["Enabled"], true);
    assert_eq!(trigger["cors"]["AllowOrigins"], json!(["https://a.example"]));
    let runtime = &trigger["RuntimeConfiguration"];
    assert_eq!(runtime["metadata"], json!({"name": "conformance", "namespace": "default"}));
    assert_eq!((&runtime["TriggerName"], &runtime["TriggerKind"]), (&json!("default-http"), &json!("http")));
}
