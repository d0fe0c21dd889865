//! The recording handler of the trigger vectors, as `tests/handlers/python/recorder` is: a line of JSON for the start
//! and the end of every event, and in between what the first matching rule says.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nuclio_handler::{Context, Error, Event, Response};
use serde_json::{Value as Json, json};

/// What a response needs that is not the recorder's business.
pub(crate) fn handle(folder: &Path, context: &Context, event: &Event<'_>, mut told: Json) -> Result<Response, Error> {
    told["worker"] = json!(context.worker_id());
    record(folder, "start", told.clone())?;
    let end = End { folder, id: told["id"].clone() };
    let rules: Json = serde_json::from_slice(&std::fs::read(folder.join("rules.json"))?)?;
    for (number, rule) in rules.as_array().into_iter().flatten().enumerate() {
        if matches(rule, event) && take(folder, number, rule["first"].as_u64()) {
            return follow(folder, rule["do"].as_array().map_or(&[], Vec::as_slice), end);
        }
    }
    Ok(Response::new())
}

/// Says that the event has ended, however it does.
struct End<'a> {
    folder: &'a Path,
    id: Json,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        record(self.folder, "end", json!({"id": self.id})).unwrap_or_default();
    }
}

fn record(folder: &Path, what: &str, mut told: Json) -> Result<(), Error> {
    told["what"] = json!(what);
    told["at"] = json!(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64());
    told["pid"] = json!(std::process::id());
    let mut file = OpenOptions::new().create(true).append(true).open(folder.join("record"))?;
    Ok(file.write_all(format!("{told}\n").as_bytes())?)
}

fn matches(rule: &Json, event: &Event<'_>) -> bool {
    rule["when"].as_object().into_iter().flatten().all(|(key, value)| match key.as_str() {
        "body" => value.as_str().is_some_and(|text| text.as_bytes() == event.body()),
        "trigger_kind" => value.as_str() == Some(event.trigger_kind()),
        _ => false,
    })
}

/// Whether a rule for the first few matches has some left, whoever asks.
fn take(folder: &Path, number: usize, first: Option<u64>) -> bool {
    let Some(first) = first else { return true };
    (0..first).any(|at| File::create_new(folder.join(format!("rule-{number}-{at}"))).is_ok())
}

fn follow(folder: &Path, actions: &[Json], _end: End<'_>) -> Result<Response, Error> {
    for action in actions {
        let text = |key: &str| action[key].as_str().unwrap_or_default().to_owned();
        if let Some(gate) = action["gate"].as_str() {
            while !folder.join(format!("gate-{gate}")).exists() {
                std::thread::sleep(Duration::from_millis(2));
            }
        } else if let Some(milliseconds) = action["sleep_ms"].as_u64() {
            std::thread::sleep(Duration::from_millis(milliseconds));
        } else if action["error"].is_string() {
            return Err(Error::new(text("error")));
        } else if action["panic"].is_string() {
            panic!("{}", text("panic"));
        } else if let Some(status) = action["reply"]["status"].as_u64() {
            return Ok(Response::new().status(status as u16));
        } else {
            return Err(Error::new(format!("unknown action {action}")));
        }
    }
    Ok(Response::new())
}
