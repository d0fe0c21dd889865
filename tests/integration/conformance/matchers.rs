//! Compares what was seen with one form of an expectation, strictly: what is not known is a difference.

use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use regex::Regex;
use serde_json::{Map, Value, json};

use super::exchange::{After, Observed, Reply};
use super::predicates;
use crate::harness::Answer;

/// How long a file may still be there after the answer.
const DELETED_WITHIN: Duration = Duration::from_secs(2);

/// All differences; none means that the form is met.
pub fn differences(expected: &Map<String, Value>, observed: &Observed, folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut of_each = Map::new();
    for (key, wanted) in expected {
        match key.as_str() {
            "responses" => found.extend(responses(wanted, observed)),
            "statuses" => found.extend(statuses(wanted, observed)),
            "total_time_ms_max" => {
                if observed.total.as_millis() > u128::from(wanted.as_u64().unwrap()) {
                    found.push(format!("all answers took {:?}, wanted at most {wanted} ms", observed.total));
                }
            }
            "file_exists_after" => found.extend(file_exists(wanted, folder)),
            "each" => found.extend(all(&observed.replies, wanted, |_| true)),
            _ => match key.strip_prefix("each_").map(str::parse::<u16>) {
                Some(Ok(status)) => {
                    let of_status =
                        |reply: &Reply| reply.answer.as_ref().is_ok_and(|answer| answer.status == status);
                    found.extend(all(&observed.replies, wanted, of_status));
                }
                Some(Err(_)) => found.push(format!("unknown matcher {key}")),
                None => drop(of_each.insert(key.clone(), wanted.clone())),
            },
        }
    }
    found.extend(all(&observed.replies, &Value::Object(of_each), |_| true));
    for reply in &observed.replies {
        if let Some(After::Odd(what)) = &reply.after {
            found.push(format!("connection: {what}"));
        }
    }
    found.dedup();
    found
}

fn all(replies: &[Reply], wanted: &Value, which: impl Fn(&Reply) -> bool) -> Vec<String> {
    let wanted = wanted.as_object().unwrap();
    replies.iter().filter(|reply| which(reply)).flat_map(|reply| of_reply(wanted, reply)).collect()
}

fn responses(wanted: &Value, observed: &Observed) -> Vec<String> {
    let wanted = wanted.as_array().unwrap();
    let mut found = Vec::new();
    if wanted.len() != observed.replies.len() {
        found.push(format!("{} answers, wanted {}", observed.replies.len(), wanted.len()));
    }
    for (wanted, reply) in wanted.iter().zip(&observed.replies) {
        found.extend(of_reply(wanted.as_object().unwrap(), reply));
    }
    found
}

fn statuses(wanted: &Value, observed: &Observed) -> Option<String> {
    let mut seen = Map::new();
    for reply in &observed.replies {
        let status = reply.answer.as_ref().map_or("none".to_owned(), |answer| answer.status.to_string());
        let count = seen.get(&status).and_then(Value::as_u64).unwrap_or(0);
        seen.insert(status, json!(count + 1));
    }
    let same =
        seen.len() == wanted.as_object().unwrap().len() && seen.iter().all(|(key, n)| wanted[key] == *n);
    (!same).then(|| format!("statuses {}, wanted {wanted}", Value::Object(seen)))
}

fn file_exists(wanted: &Value, folder: &Path) -> Option<String> {
    let exists = || {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        names.into_iter().any(|name| name.to_string_lossy().starts_with("streamed-"))
    };
    let wanted = wanted.as_bool().unwrap();
    let deadline = Instant::now() + DELETED_WITHIN;
    while exists() != wanted && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    (exists() != wanted).then(|| format!("streamed file exists: {}, wanted {wanted}", exists()))
}

fn of_reply(wanted: &Map<String, Value>, reply: &Reply) -> Vec<String> {
    let mut found = Vec::new();
    let dropped = wanted.get("dropped_connection").is_some_and(|wanted| wanted == true);
    let answer = match &reply.answer {
        Ok(answer) => answer,
        Err(_) if dropped => return found,
        Err(error) => return vec![format!("no answer: {error}")],
    };
    for (key, value) in wanted {
        match key.as_str() {
            "status" => {
                if json!(answer.status) != *value {
                    found.push(format!(
                        "status {}, wanted {value}; body {}",
                        answer.status,
                        short(&answer.body)
                    ));
                }
            }
            "headers" => found.extend(headers(value.as_object().unwrap(), answer)),
            "body" => found.extend(body(value.as_object().unwrap(), answer, reply)),
            "connection" => found.extend(connection(value, reply)),
            "interim" => {
                if json!(answer.interim) != *value {
                    found.push(format!("interim {:?}, wanted {value}", answer.interim));
                }
            }
            "answered_between_ms" => {
                let bounds: [u64; 2] = serde_json::from_value(value.clone()).unwrap();
                let taken = reply.elapsed.as_millis() as u64;
                if !(bounds[0]..=bounds[1]).contains(&taken) {
                    found.push(format!("answered after {taken} ms, wanted {value}"));
                }
            }
            "raw_headers_contain" => {
                for line in value.as_array().unwrap().iter().map(|line| line.as_str().unwrap()) {
                    if !answer.lines.iter().any(|sent| sent == line) {
                        found.push(format!("no line {line:?} in {:?}", answer.lines));
                    }
                }
            }
            "dropped_connection" => {
                if dropped {
                    found.push(format!("an answer with status {}, wanted none", answer.status));
                }
            }
            other => found.push(format!("unknown matcher {other}")),
        }
    }
    found
}

fn connection(wanted: &Value, reply: &Reply) -> Option<String> {
    let seen = match reply.after.as_ref() {
        // More came on it.
        None => return None,
        Some(After::KeptAlive) => "keep-alive",
        Some(After::Closed) => "close",
        Some(After::Odd(_)) => "odd",
    };
    (seen != wanted.as_str().unwrap()).then(|| format!("connection {seen}, wanted {wanted}"))
}

fn headers(wanted: &Map<String, Value>, answer: &Answer) -> Vec<String> {
    let mut found = Vec::new();
    for (name, wanted) in wanted {
        let values = answer.values(name);
        match wanted {
            Value::String(text) => {
                if values != [text.as_str()] {
                    found.push(format!("header {name} {values:?}, wanted {text:?}"));
                }
            }
            Value::Object(matchers) => {
                for (matcher, argument) in matchers {
                    if let Err(why) = header(matcher, argument, &values) {
                        found.push(format!("header {name} {values:?}: {why}"));
                    }
                }
            }
            other => found.push(format!("unknown matcher {other} of header {name}")),
        }
    }
    found
}

fn header(matcher: &str, argument: &Value, values: &[&str]) -> Result<(), String> {
    let parsed = || {
        let [value] = values else { return Err(format!("{} values, wanted one", values.len())) };
        // The harness reads one character per byte.
        let bytes: Vec<u8> = value.chars().map(|char| char as u8).collect();
        serde_json::from_slice::<Value>(&bytes).map_err(|error| format!("no JSON: {error}"))
    };
    let met = match (matcher, argument) {
        ("any", Value::Bool(true)) => true,
        ("absent", Value::Bool(true)) => values.is_empty(),
        ("present", Value::Bool(true)) => !values.is_empty(),
        ("regex", Value::String(pattern)) => {
            values.len() == 1 && Regex::new(pattern).unwrap().is_match(values[0])
        }
        ("values", Value::Array(wanted)) => wanted.iter().eq(values.iter()),
        ("json", wanted @ Value::Array(_)) => return contains(&parsed()?, wanted),
        ("json_length", wanted) => parsed()?.as_array().is_some_and(|list| json!(list.len()) == *wanted),
        ("json_predicate", Value::String(words)) => {
            let text = values.first().copied().unwrap_or_default();
            return predicates::holds(words, &parsed()?, text);
        }
        _ => return Err(format!("unknown matcher {matcher}: {argument}")),
    };
    if met { Ok(()) } else { Err(format!("wanted {matcher} {argument}")) }
}

fn body(wanted: &Map<String, Value>, answer: &Answer, reply: &Reply) -> Vec<String> {
    let mut found = Vec::new();
    for (matcher, argument) in wanted {
        if let Err(why) = one_body(matcher, argument, &answer.body, &reply.sent) {
            found.push(format!("body {}: {why}", short(&answer.body)));
        }
    }
    found
}

fn one_body(matcher: &str, argument: &Value, body: &[u8], sent: &[u8]) -> Result<(), String> {
    let parsed = || serde_json::from_slice::<Value>(body).map_err(|error| format!("no JSON: {error}"));
    let met = match (matcher, argument) {
        ("equals", Value::String(text)) => body == text.as_bytes(),
        ("base64", Value::String(text)) => {
            body == base64::engine::general_purpose::STANDARD.decode(text).unwrap()
        }
        ("empty", Value::Bool(true)) => body.is_empty(),
        ("length", wanted) => json!(body.len()) == *wanted,
        ("regex", Value::String(pattern)) => {
            Regex::new(pattern).unwrap().is_match(&String::from_utf8_lossy(body))
        }
        ("json", wanted) => return contains(&parsed()?, wanted),
        ("json_equals", wanted) => same(&parsed()?, wanted),
        ("json_predicate", Value::String(words)) => {
            return predicates::holds(words, &parsed()?, &String::from_utf8_lossy(body));
        }
        ("own_request_body", Value::Bool(true)) => body == sent,
        _ => return Err(format!("unknown matcher {matcher}: {argument}")),
    };
    if met { Ok(()) } else { Err(format!("wanted {matcher} {argument}")) }
}

/// Whether two values are the same; numbers by what they mean.
pub fn same(seen: &Value, wanted: &Value) -> bool {
    match (seen, wanted) {
        (Value::Number(seen), Value::Number(wanted)) => seen == wanted || seen.as_f64() == wanted.as_f64(),
        (Value::Array(seen), Value::Array(wanted)) => {
            seen.len() == wanted.len() && seen.iter().zip(wanted).all(|(seen, wanted)| same(seen, wanted))
        }
        (Value::Object(seen), Value::Object(wanted)) => {
            seen.len() == wanted.len()
                && wanted.iter().all(|(key, wanted)| seen.get(key).is_some_and(|seen| same(seen, wanted)))
        }
        _ => seen == wanted,
    }
}

/// Whether everything wanted is there: members of objects; lists have the same length.
fn contains(seen: &Value, wanted: &Value) -> Result<(), String> {
    match (seen, wanted) {
        (_, Value::Object(matcher)) if *wanted == json!({"present": true}) && !matcher.is_empty() => Ok(()),
        (Value::Object(seen), Value::Object(wanted)) => {
            for (key, wanted) in wanted {
                contains(seen.get(key).ok_or_else(|| format!("no member {key}"))?, wanted)?;
            }
            Ok(())
        }
        (Value::Array(seen), Value::Array(wanted)) if seen.len() == wanted.len() => {
            seen.iter().zip(wanted).try_for_each(|(seen, wanted)| contains(seen, wanted))
        }
        _ if same(seen, wanted) => Ok(()),
        _ => Err(format!(
            "{} is not {}",
            short(seen.to_string().as_bytes()),
            short(wanted.to_string().as_bytes())
        )),
    }
}

fn short(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
    if bytes.len() > 300 { format!("{text:?}… ({} bytes)", bytes.len()) } else { format!("{text:?}") }
}
