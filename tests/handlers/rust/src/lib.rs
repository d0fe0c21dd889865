//! Test handler in Rust: does what the request header `X-Behaviour` says, one of the `handler_behaviour` kinds of the
//! HTTP vectors as JSON; without it, what the file named by `BEHAVIOUR_FILE` says, which is read for every event.
//! Without either the path chooses among what the vectors do not need. `RECORD_FOLDER` makes it the recorder of the
//! trigger vectors.

mod recorder;

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use nuclio_handler::{Body, Context, Control, Error, Event, Handler, Level, Response, Value, export_handler};
use serde_json::{Map, Value as Json, json};

struct TestHandler {
    calls: u64,
    kept: Option<nuclio_handler::EventSlice>,
}

impl Handler for TestHandler {
    fn init(context: &Context) -> Result<Self, Error> {
        if let Ok(delay) = std::env::var("INIT_DELAY_MS") {
            std::thread::sleep(Duration::from_millis(delay.parse()?));
        }
        match context.worker_id() {
            13 => Err(Error::new("no worker 13 today")),
            14 => panic!("odd worker"),
            _ => Ok(Self { calls: 0, kept: None }),
        }
    }

    fn handle(&mut self, context: &Context, event: Event<'_>) -> Result<Response, Error> {
        self.calls += 1;
        if let Ok(folder) = std::env::var("RECORD_FOLDER") {
            return recorder::handle(Path::new(&folder), context, &event, shown(&event, &RECORDED.map(Json::from))?);
        }
        if let Some(behaviour) = event.header("X-Behaviour") {
            return behave(context, &event, &serde_json::from_slice(behaviour)?);
        }
        match std::env::var("BEHAVIOUR_FILE") {
            Ok(path) => behave(context, &event, &serde_json::from_slice(&std::fs::read(path)?)?),
            Err(_) => self.by_path(&event),
        }
    }

    fn control(&mut self, context: &Context, control: Control) {
        context.log(Level::Info, "control", &[("what", Value::Text(&format!("{control:?}")))]);
        if control == Control::Continue {
            panic!("cannot continue");
        }
    }
}

impl TestHandler {
    fn by_path(&mut self, event: &Event<'_>) -> Result<Response, Error> {
        match event.path() {
            b"/empty" => Ok(Response::new()),
            b"/echo" => Ok(Response::new().body(event.share(event.body()))),
            b"/keep" => {
                self.kept = Some(event.share(event.body()));
                Ok(Response::new())
            }
            b"/kept" => Ok(Response::new().body(self.kept.take().ok_or_else(|| Error::new("nothing kept"))?)),
            b"/owned" => Ok(Response::new().body(event.body().to_vec())),
            b"/scratch" => {
                let scratch = event.alloc(2000).ok_or_else(|| Error::new("no memory"))?;
                scratch.fill(b's');
                Ok(Response::new().body(event.share(scratch)))
            }
            b"/stream" => Ok(Response::stream(chunks(false)).status(202)),
            b"/stream-fails" => Ok(Response::stream(chunks(true))),
            b"/crash" => std::process::abort(),
            _ => Err(Error::with_status(404, "unknown behaviour")),
        }
    }
}

fn chunks(fails: bool) -> impl Iterator<Item = Result<Vec<u8>, Error>> + Send {
    let last = fails.then(|| Err(Error::new("no more")));
    (1..=3).rev().map(|n| Ok(format!("chunk{n};").into_bytes())).chain(last)
}

fn behave(context: &Context, event: &Event<'_>, behaviour: &Json) -> Result<Response, Error> {
    let text = |key: &str| behaviour[key].as_str().unwrap_or_default().to_owned();
    match behaviour["kind"].as_str().unwrap_or_default() {
        "echo" => echo(event, behaviour["fields"].as_array().map_or(&[], Vec::as_slice)),
        "respond" => respond(behaviour),
        "string" => Ok(Response::text(text("body"))),
        "bytes" => Ok(Response::new().body(text("body").into_bytes())),
        "none" => Ok(Response::new()),
        "error" => Err(Error::new(text("message"))),
        "error_status" => Err(Error::with_status(behaviour["status"].as_u64().unwrap_or(0) as u16, text("message"))),
        "panic" => panic!("{}", text("message")),
        "sleep" => {
            mark(".sleeping")?;
            std::thread::sleep(Duration::from_millis(behaviour["ms"].as_u64().unwrap_or(0)));
            behave(context, event, &behaviour["then"])
        }
        "log" => {
            behaviour["entries"].as_array().into_iter().flatten().for_each(|entry| log(context, entry));
            behave(context, event, &behaviour["then"])
        }
        "file" => file(event, behaviour),
        "not_called" => {
            mark(".called")?;
            Ok(Response::text("the handler was called"))
        }
        other => Err(Error::with_status(404, format!("unknown behaviour {other}"))),
    }
}

/// Tells the test how far the handler is, by a file beside the one it reads.
fn mark(what: &str) -> Result<(), Error> {
    if let Ok(path) = std::env::var("BEHAVIOUR_FILE") {
        std::fs::write(path + what, "")?;
    }
    Ok(())
}

fn log(context: &Context, entry: &Json) {
    let level = match entry["level"].as_str() {
        Some("debug") => Level::Debug,
        Some("warn" | "warning") => Level::Warn,
        Some("error") => Level::Error,
        _ => Level::Info,
    };
    let texts: Vec<(String, String)> =
        entry["with"].as_object().into_iter().flatten().map(|(name, value)| (name.clone(), value.to_string())).collect();
    let fields: Vec<(&str, Value<'_>)> =
        texts.iter().map(|(name, value)| (name.as_str(), Value::Json(value))).collect();
    context.log(level, entry["message"].as_str().unwrap_or_default(), &fields);
}

fn respond(behaviour: &Json) -> Result<Response, Error> {
    let mut response = Response::new().body(match (&behaviour["body"], &behaviour["body_b64"]) {
        (Json::String(text), _) => Body::from(text.clone()),
        (_, Json::String(text)) => Body::from(base64::engine::general_purpose::STANDARD.decode(text)?),
        _ => Body::Empty,
    });
    if let Some(status) = behaviour["status"].as_u64() {
        response = response.status(status as u16);
    }
    if let Some(content_type) = behaviour["content_type"].as_str() {
        response = response.content_type(content_type.to_owned());
    }
    for (name, value) in behaviour["headers"].as_object().into_iter().flatten() {
        let values: Cow<'_, [Json]> = match value {
            Json::Array(values) => Cow::Borrowed(values),
            value => Cow::Owned(vec![value.clone()]),
        };
        for value in values.iter().filter(|value| !value.is_null()) {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            response = response.header(name.clone(), text);
        }
    }
    for (name, value) in behaviour["int_headers"].as_object().into_iter().flatten() {
        response = response.header(name.clone(), value.as_i64().unwrap_or_default());
    }
    Ok(response)
}

/// Answers with a file's name; the processor sends the file.
fn file(event: &Event<'_>, behaviour: &Json) -> Result<Response, Error> {
    let folder = match std::env::var("BEHAVIOUR_FILE") {
        Ok(path) => Path::new(&path).parent().map(Path::to_owned).unwrap_or_default(),
        Err(_) => std::env::temp_dir(),
    };
    let path = folder.join(format!("streamed-{}", event.id()));
    if behaviour["directory"] == true {
        std::fs::create_dir_all(&path)?;
    } else if behaviour["missing"] != true {
        std::fs::write(&path, behaviour["content"].as_str().unwrap_or_default())?;
    }
    let mut response =
        respond(behaviour)?.header("X-nuclio-filestream-path", path.to_string_lossy().into_owned());
    if behaviour["delete"] == true {
        let value = behaviour["delete_value"].as_str().unwrap_or("true").to_owned();
        response = response.header("X-nuclio-filestream-delete-after-send", value);
    }
    Ok(response)
}

/// What the recorder tells of an event.
const RECORDED: [&str; 18] = [
    "id", "method", "path", "url", "content_type", "size", "body", "shard_id", "num_shards", "type", "type_version",
    "version", "offset", "topic", "trigger", "timestamp", "headers", "fields",
];

fn echo(event: &Event<'_>, fields: &[Json]) -> Result<Response, Error> {
    Ok(Response::json(shown(event, fields)?.to_string()))
}

fn shown(event: &Event<'_>, fields: &[Json]) -> Result<Json, Error> {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let map = |pairs: &mut dyn Iterator<Item = (String, String)>| {
        Json::Object(pairs.map(|(name, value)| (name, Json::from(value))).collect::<Map<_, _>>())
    };
    let mut shown = Map::new();
    for field in fields.iter().filter_map(Json::as_str) {
        let value = match field {
            "id" => json!(event.id()),
            "method" => json!(event.method()),
            "path" => json!(event.path_text()),
            "url" => json!(lossy(event.url())),
            "content_type" => json!(event.content_type()),
            // An object as data of a cloud event is no bytes: it has no size.
            "size" => json!(if event.body_is_json() { 0 } else { event.body().len() }),
            "body" if event.body_is_json() => serde_json::from_slice(event.body())?,
            "body" => json!(lossy(event.body())),
            "shard_id" => json!(event.shard_id()),
            "num_shards" => json!(event.num_shards()),
            "type" => json!(event.event_type()),
            "type_version" => json!(event.type_version()),
            "version" => json!(event.version()),
            "offset" => json!(event.offset()),
            "topic" => json!(event.topic()),
            "trigger" => json!({"kind": event.trigger_kind(), "name": event.trigger_name()}),
            "timestamp" => json!(seconds(event.timestamp_ns())),
            "headers" => map(&mut event.headers().map(|(name, value)| (name.to_owned(), lossy(value)))),
            "fields" => map(&mut event.fields().map(|(name, value)| (lossy(name), lossy(value)))),
            _ => continue,
        };
        shown.insert(field.to_owned(), value);
    }
    Ok(Json::Object(shown))
}

/// Unix seconds; Go's zero time comes as the lowest number.
fn seconds(timestamp_ns: i64) -> i64 {
    match timestamp_ns {
        i64::MIN => -62_135_596_800,
        nanos => nanos.div_euclid(1_000_000_000),
    }
}

export_handler!(TestHandler);
nuclio_handler::main!(TestHandler);
