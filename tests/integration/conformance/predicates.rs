//! The `json_predicate` sentences, each as a function.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// Whether the sentence holds for a value, given also as it was sent.
pub fn holds(words: &str, value: &Value, text: &str) -> Result<(), String> {
    let met = match words {
        "timestamp is an integer within 5 of the current Unix time" => {
            value["timestamp"].as_i64().is_some_and(|seconds| (seconds - now_ms() / 1000).abs() <= 5)
        }
        "id is a non-empty string" => value["id"].as_str().is_some_and(|id| !id.is_empty()),
        "body is a multipart/form-data document with boundary B holding field z=zv and file f (a.txt) = FILE" =>
        {
            // Only the re-serialising reference needs more than its parts.
            value["body"].as_str().is_some_and(|body| {
                ["--B\r\n", "name=\"z\"", "\r\n\r\nzv\r\n", "filename=\"a.txt\"", "\r\n\r\nFILE\r\n", "--B--"]
                    .iter()
                    .all(|part| body.contains(part))
            })
        }
        "entry 0 has a numeric time in milliseconds since the epoch, within 5000 of now" => {
            value[0]["time"].as_f64().is_some_and(|time| (time - now_ms() as f64).abs() <= 5000.0)
        }
        "a JSON array shorter than 4096 bytes holding the newest entries whole, oldest dropped first, plus one \
         warn entry that says how many were dropped" => return newest_logs(value, text),
        "id, body and headers hold nothing of the first event" => {
            let shown = value.to_string();
            !["A-1", "one", "comExampleExtension"].iter().any(|part| shown.contains(part))
        }
        "object with key default-http whose value has kind http, name default-http, numWorkers 1, readBufferSize \
         16384, maxRequestBodySize 4194304, mode sync and no key ID" => {
            let trigger = &value["default-http"];
            trigger["kind"] == "http"
                && trigger["name"] == "default-http"
                && trigger["numWorkers"] == 1
                && trigger["readBufferSize"] == 16384
                && trigger["maxRequestBodySize"] == 4_194_304
                && trigger["mode"] == "sync"
                && trigger.get("ID").is_none()
        }
        other => return Err(format!("unknown predicate: {other}")),
    };
    if met { Ok(()) } else { Err(format!("wanted: {words}")) }
}

/// The vector logs thirty entries, `m0-…` to `m29-…`, of 200 letters each.
fn newest_logs(value: &Value, text: &str) -> Result<(), String> {
    if text.len() >= 4096 {
        return Err(format!("{} bytes, wanted less than 4096", text.len()));
    }
    let entries = value.as_array().ok_or("no list")?;
    let number = |entry: &Value| {
        let (number, rest) = entry["message"].as_str()?.strip_prefix('m')?.split_once('-')?;
        (entry["level"] == "info" && rest.len() == 200 && rest.bytes().all(|byte| byte == b'x'))
            .then(|| number.parse::<usize>().ok())?
    };
    let kept: Vec<usize> = entries.iter().filter_map(number).collect();
    let dropped = 30 - kept.len();
    let newest: Vec<usize> = (dropped..30).collect();
    if kept != newest || kept.is_empty() {
        return Err(format!("kept {kept:?}, wanted the newest"));
    }
    let notes: Vec<&Value> = entries.iter().filter(|entry| number(entry).is_none()).collect();
    match notes.as_slice() {
        [note] if note["level"] == "warn" && note.to_string().contains(&dropped.to_string()) => Ok(()),
        other => Err(format!("{other:?}, wanted one warn entry that names {dropped}")),
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}
