//! How the wrappers of the Go processor are started and driven over shim protocol 1, one value per language. Rows of
//! the table in [`super::languages`] name them. What all of them have in common is in [`super::v1`].

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use super::protocol::v1::event::Encoding;
use super::v1::{Arguments, Dialect, Transport};
use crate::config::Config;
use crate::runtime::StartError;

/// Ruby and .NET say that they are ready, in releases that say so at all, within this time after they connected.
const NOTICE_WITHIN: Duration = Duration::from_secs(10);
/// Java connects before it loads the handler, and says nothing when it has: one that cannot be loaded ends it by then.
const JAVA_LOAD: Duration = Duration::from_millis(500);
/// Lets a Node.js wrapper read its events line by line; see the file.
const NODEJS_LINES: &str = include_str!("../../../runtimes/nodejs/v1_lines.js");
/// The answer encoder of the Java wrapper looks into this package, which Java 16 and newer close.
const JAVA_OPENS: &str = "--add-opens=java.base/java.util=ALL-UNNAMED";

/// Tells our own shim, run this way, that answers may come in pieces: no processor of the reference says so.
const STREAMS: (&str, &str) = ("NUCLIO_SHIM_STREAM_LINES", "1");

/// The Python wrapper: the only one with callbacks, which signals ask for, and with a connection for everything else.
pub static PYTHON: Dialect = Dialect {
    encoding: Encoding::MsgPack,
    options: no_options,
    arguments: python_arguments,
    // On SIGABRT the interpreter shows where it hangs.
    environment: &[("PYTHONFAULTHANDLER", "1"), STREAMS],
    transport: Transport::Unix,
    control: true,
    notice_within: None,
    ends_with_connection: true,
};

/// The Node.js wrapper.
pub static NODEJS: Dialect = Dialect {
    encoding: Encoding::Json,
    options: no_options,
    arguments: nodejs_arguments,
    environment: &[STREAMS],
    transport: Transport::Unix,
    control: false,
    notice_within: None,
    ends_with_connection: true,
};

/// The Java wrapper, which connects over TCP.
pub static JAVA: Dialect = Dialect {
    encoding: Encoding::Json,
    options: |config| {
        let mut options = vec![OsString::from(JAVA_OPENS)];
        options.extend(jvm_options(config)?);
        Ok(options)
    },
    arguments: java_arguments,
    environment: &[],
    transport: Transport::Tcp,
    control: false,
    notice_within: Some(JAVA_LOAD),
    ends_with_connection: true,
};

/// The .NET wrapper: it loses events that come before it is ready, and spins when its connection ends.
pub static DOTNETCORE: Dialect = Dialect {
    encoding: Encoding::Json,
    options: no_options,
    arguments: |from| Ok(vec![from.file.into(), from.event.into()]),
    environment: &[],
    transport: Transport::Unix,
    control: false,
    notice_within: Some(NOTICE_WITHIN),
    ends_with_connection: false,
};

/// The Ruby wrapper.
pub static RUBY: Dialect = Dialect {
    encoding: Encoding::Json,
    options: no_options,
    arguments: ruby_arguments,
    environment: &[],
    transport: Transport::Unix,
    control: false,
    notice_within: Some(NOTICE_WITHIN),
    ends_with_connection: true,
};

/// For a language whose options are always the same.
pub(super) fn no_options(_: &Config) -> Result<Vec<OsString>, StartError> {
    Ok(Vec::new())
}

/// In the order of the Go processor.
fn python_arguments(from: &Arguments<'_>) -> Result<Vec<OsString>, StartError> {
    let mut arguments = vec![OsString::from(from.file)];
    let mut add = |name: &str, value: String| arguments.extend([name.into(), value.into()]);
    add("--handler", (from.setting)("handler"));
    add("--event-socket-path", from.event.to_owned());
    add("--control-socket-path", from.control.to_owned());
    add("--platform-kind", (from.setting)("platform_kind"));
    add("--namespace", (from.setting)("namespace"));
    add("--worker-id", (from.setting)("worker_id"));
    add("--trigger-kind", (from.setting)("trigger_kind"));
    add("--trigger-name", (from.setting)("trigger_name"));
    if (from.setting)("decode_strings") == "1" {
        arguments.push("--decode-event-strings".into());
    }
    Ok(arguments)
}

/// compat: one part is a function of `handler.js`, two are file and function, more are refused.
fn nodejs_arguments(from: &Arguments<'_>) -> Result<Vec<OsString>, StartError> {
    let handler = (from.setting)("handler");
    let parts: Vec<&str> = handler.split(':').collect();
    let (file, entry) = match parts[..] {
        [entry] => ("handler.js", entry),
        [file, entry] => (file, entry),
        _ => {
            let advice = "spec.handler has the form file:function, or function for one in handler.js";
            return Err(StartError::new(format!("Bad handler - \"{handler}\""), advice));
        }
    };
    let path = Path::new(&(from.setting)("handler_dir")).join(file);
    Ok(vec!["-e".into(), NODEJS_LINES.into(), from.file.into(), from.event.into(), path.into(), entry.into()])
}

fn java_arguments(from: &Arguments<'_>) -> Result<Vec<OsString>, StartError> {
    let handler = (from.setting)("handler");
    let class = handler.split_once(':').map_or(&*handler, |(_, class)| class);
    let port = from.event.rsplit(':').next().unwrap_or_default();
    Ok(vec![
        "-jar".into(),
        from.file.into(),
        "-handler".into(),
        class.into(),
        "-port".into(),
        port.into(),
        "-workerid".into(),
        (from.setting)("worker_id").into(),
    ])
}

fn ruby_arguments(from: &Arguments<'_>) -> Result<Vec<OsString>, StartError> {
    Ok(vec![
        from.file.into(),
        "--handler".into(),
        (from.setting)("handler").into(),
        "--socket-path".into(),
        from.event.into(),
    ])
}

/// What `spec.runtimeAttributes.jvmOptions` asks for.
pub(super) fn jvm_options(config: &Config) -> Result<Vec<OsString>, StartError> {
    let wrong = |what: String| {
        StartError::new(what, "spec.runtimeAttributes.jvmOptions is a list of texts, such as [\"-Xmx256m\"]")
    };
    let mut options = Vec::new();
    let Some(given) = config.function.runtime_attributes.get("jvmOptions") else { return Ok(options) };
    let given = given.as_array().ok_or_else(|| wrong(format!("jvmOptions is not a list ({given})")))?;
    for (index, option) in given.iter().enumerate() {
        let text = option.as_str();
        let text = text.ok_or_else(|| wrong(format!("jvmOptions {index} is not a string ({option})")))?;
        options.push(text.into());
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(dialect: &Dialect, handler: &str, expected: &str) {
        let setting = |name: &str| match name {
            "handler" => handler.to_owned(),
            "handler_dir" => "/opt/nuclio".to_owned(),
            "decode_strings" => "1".to_owned(),
            other => format!("<{other}>"),
        };
        let event = if dialect.transport == Transport::Tcp { "127.0.0.1:4242" } else { "/tmp/e" };
        let from = Arguments { file: Path::new("/w"), event, control: "/tmp/c", setting: &setting };
        let arguments = (dialect.arguments)(&from).unwrap();
        let words = arguments.iter().map(|word| word.to_str().unwrap()).filter(|word| *word != NODEJS_LINES);
        assert_eq!(words.collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn every_wrapper_is_started_with_the_arguments_of_the_go_processor() {
        check(
            &PYTHON,
            "main:handler",
            "/w --handler main:handler --event-socket-path /tmp/e --control-socket-path /tmp/c --platform-kind \
             <platform_kind> --namespace <namespace> --worker-id <worker_id> --trigger-kind <trigger_kind> \
             --trigger-name <trigger_name> --decode-event-strings",
        );
        check(&NODEJS, "main:handler", "-e /w /tmp/e /opt/nuclio/main handler");
        check(&NODEJS, "run", "-e /w /tmp/e /opt/nuclio/handler.js run");
        check(&JAVA, "any.jar:Main", "-jar /w -handler Main -port 4242 -workerid <worker_id>");
        check(&JAVA, "Main", "-jar /w -handler Main -port 4242 -workerid <worker_id>");
        check(&DOTNETCORE, "nuclio:reverser", "/w /tmp/e");
        check(&RUBY, "main:run", "/w --handler main:run --socket-path /tmp/e");
    }

    #[test]
    fn a_handler_of_three_parts_is_refused_for_nodejs() {
        let setting = |_: &str| "a:b:c".to_owned();
        let from = Arguments { file: Path::new("/w"), event: "", control: "", setting: &setting };
        let error = nodejs_arguments(&from).unwrap_err().to_string();
        assert!(error.contains("Bad handler - \"a:b:c\""), "{error}");
    }
}
