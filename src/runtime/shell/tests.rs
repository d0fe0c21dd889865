use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use tokio_util::sync::CancellationToken;

use super::call::{Caller, Running, Surroundings};
use super::*;
use crate::event::{EventBody, EventId, Extra, Target, TriggerInfo};
use crate::logging::Logger;
use crate::reaper::Children;

fn event(arguments: &[&str]) -> Event {
    let mut header_map = HeaderMap::new();
    for value in arguments {
        header_map.append(ARGUMENTS_HEADER, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    Event {
        id: EventId::Text("e".into()),
        trigger: TriggerInfo { index: 0, class: "async", kind: "cron".into(), name: "c".into() }.forever(),
        timestamp: SystemTime::UNIX_EPOCH + Duration::from_millis(1_735_689_600_999),
        target: Target::Plain { method: "POST".into(), path: "/p".into(), url: "u".into() },
        header_map,
        body: EventBody::none(),
        log_buffer: None,
        trace: None,
        extra: None,
        web: None,
    }
}

fn command(form: Form, arguments: &str) -> Command {
    Command {
        shell: "/bin/sh".into(),
        form,
        arguments: arguments.to_owned(),
        headers: HeaderMap::new(),
        environment: Vec::new(),
        inherits_environment: false,
        errors: Errors::Answer,
        streams: false,
        ends_with_client: true,
        answer_bytes_max: 1,
    }
}

#[test]
fn arguments_are_split_at_single_spaces_and_those_of_a_header_win() {
    let script = command(Form::Script("/s".into()), "a  b");
    for (header, expected) in
        [(vec![], "/s|a||b"), (vec![""], "/s|a||b"), (vec!["x"], "/s|x"), (vec!["x", "y z"], "/s|y|z")]
    {
        let arguments = script.arguments(&event(&header));
        let texts: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
        assert_eq!(texts.join("|"), expected);
    }
}

#[test]
fn only_configured_arguments_are_text_for_the_shell() {
    let program = command(Form::Program("echo".into()), "$(id)");
    assert_eq!(program.arguments(&event(&[])), ["-c", "echo $(id)"]);
    assert_eq!(program.arguments(&event(&["$(id) b"])), ["-c", "echo \"$@\"", "echo", "$(id)", "b"]);
    let bytes = program.arguments(&event(&["\u{fc}"]));
    assert_eq!(bytes[3].as_bytes(), "\u{fc}".as_bytes());
}

#[test]
fn an_event_that_brought_its_own_headers_is_asked_for_them() {
    let script = command(Form::Script("/s".into()), "a");
    let mut event = event(&["of-http"]);
    let own = |name: &str| Some(vec![(name.to_owned(), "own".to_owned().into())]);
    event.extra = Some(Box::new(Extra { headers: own("X-nuclio-Arguments"), ..Extra::default() }));
    assert_eq!(script.arguments(&event), ["/s", "own"]);
    event.extra = Some(Box::new(Extra { headers: own("X-Other"), ..Extra::default() }));
    assert_eq!(script.arguments(&event), ["/s", "a"]);
}

/// Its number may belong to the next process at once, whose status must not be given away when this one's event ends.
#[tokio::test]
async fn a_process_that_has_ended_is_no_child_any_more_however_long_its_output_is_held() {
    let script = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(script.path(), "sleep 30 & echo begun").unwrap();
    let (children, logger, stop) = (Children::default(), Logger::silent(), CancellationToken::new());
    let command = command(Form::Script(script.path().into()), "");
    let around =
        Surroundings { command: &command, children: &children, logger: &logger, deadline: None, stop: &stop };
    let (mut event, mut caller) = (event(&[]), Caller::Nobody);
    let mut running = Running::start(&event, &around).unwrap();
    let pid = running.pid();
    assert!(children.owns(pid));
    while children.owns(pid) {
        let attended = running.attend(&mut event, &around, &mut caller);
        let still_held = tokio::time::timeout(Duration::from_millis(20), attended).await.is_err();
        assert!(still_held, "what it left behind has its output");
    }
    running.end(&mut event, &logger).await;
    // As if another one had got the number.
    let entered: Result<_, ()> = children.adopt(|| Ok((pid, ())));
    drop((entered, running));
    assert!(children.owns(pid));
}

#[test]
fn variables_say_what_the_event_is() {
    let variables = environment::variables(&event(&[]));
    let value = |name: &str| {
        let (_, value) = variables.iter().find(|(other, _)| *other == name).unwrap();
        value.to_str().unwrap().to_owned()
    };
    for (name, expected) in [
        ("NUCLIO_EVENT_ID", "e"),
        ("NUCLIO_TRIGGER_CLASS", "async"),
        ("NUCLIO_TRIGGER_KIND", "cron"),
        ("NUCLIO_EVENT_TIMESTAMP", "2025-01-01T00:00:00Z"),
        ("NUCLIO_EVENT_METHOD", "POST"),
        ("NUCLIO_EVENT_PATH", "/p"),
        ("NUCLIO_EVENT_URL", "u"),
        ("NUCLIO_EVENT_SHARD_ID", "-1"),
        ("NUCLIO_EVENT_NUM_SHARDS", "0"),
        ("NUCLIO_EVENT_TYPE", ""),
    ] {
        assert_eq!(value(name), expected, "{name}");
    }
    assert_eq!(environment::with_nul(&["a\0b".into()], &variables), Some("its arguments"));
    assert_eq!(environment::with_nul(&["ab".into()], &variables), None);
}
