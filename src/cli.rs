//! The command line: Go's flags for the start, subcommands of our own.
//!
//! Only reads arguments; whoever called prints and ends. A subcommand counts only as first argument, because the Go
//! processor ignores words that are no flags.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};

use crate::config::duration::GoDuration;
use crate::config::schema::Schema;
use crate::config::{RuntimeKind, nearest};

const CONFIG: &str = "/etc/nuclio/config/processor/processor.yaml";
const PLATFORM_CONFIG: &str = "/etc/nuclio/config/platform/platform.yaml";

const USAGE: &str = "\
Usage of processor:
  -config string
    \tPath of the function configuration (default \"/etc/nuclio/config/processor/processor.yaml\")
  -list-runtimes
    \tPrint the kinds of runtimes, one per line
  -platform-config string
    \tPath of the platform configuration (default \"/etc/nuclio/config/platform/platform.yaml\")
  -version
    \tPrint the version

Commands, as first argument (processor COMMAND --help says more):
  dev [FILE[:HANDLER]]
    \tServe one handler file without configuration
  invoke FILE|PATH
    \tSend the requests of a file, or one, to a function and show its answers
  check [FILE]
    \tCheck a function configuration and show its effective limits
  blueprint --runtime NAME DIR
    \tWrite Dockerfile, function.yaml and an empty handler
";

/// Commands of our own.
const COMMANDS: [&str; 4] = ["dev", "invoke", "check", "blueprint"];

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Run a function.
    Run {
        /// Function configuration.
        config: PathBuf,
        /// Platform configuration.
        platform_config: PathBuf,
        /// The first argument, where it is neither flag nor command.
        ignored: Option<String>,
    },
    /// Serve one handler file.
    Dev(Dev),
    /// Send requests to a function.
    Invoke(Invoke),
    /// Check configuration files.
    Check {
        /// Function configuration.
        config: PathBuf,
        /// Platform configuration.
        platform_config: PathBuf,
    },
    /// Print the JSON Schema of a configuration file.
    Schema(Schema),
    /// Write the files of a first function image.
    Blueprint(Blueprint),
    /// Print [`runtimes`].
    ListRuntimes,
    /// Print [`version`].
    Version,
}

/// Arguments of `processor dev`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dev {
    /// The handler's file; `None`: the demonstration handler.
    pub file: Option<PathBuf>,
    /// Name of the handler in the file, when given.
    pub handler: Option<String>,
    /// Runtime, when given; else the file's ending tells.
    pub runtime: Option<RuntimeKind>,
    /// Address to listen on, `host:port`.
    pub listen: String,
    /// Workers.
    pub workers: usize,
    /// Files of variables for the handler, and for us.
    pub env_files: Vec<PathBuf>,
    /// What else makes it start again: files, and folders in which every file counts.
    pub watch: Vec<PathBuf>,
    /// How records look.
    pub log_format: LogFormat,
    /// It has started itself again.
    pub resumed: Resumed,
}

/// How records look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What one start of `processor dev` tells the next, by arguments that nobody else gives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Resumed {
    /// The listening socket is standard input; when the change was seen, milliseconds since 1970.
    #[arg(long, hide = true, value_name = "MS")]
    pub resumed: Option<u64>,
    /// Variables of the environment that come from files.
    #[arg(long, hide = true, value_delimiter = ',', value_name = "NAMES")]
    pub file_variables: Option<Vec<String>>,
}

/// Send the requests of a file, or one, to a function and show its answers.
///
/// The file is of the form that HTTP clients of editors use (.http, .rest), or JSON: an object with method, path, headers,
/// query, body or bodyBase64, and expect, or a list of such. Anything else is the path of one request.
///
/// Exit code 0: all were answered with a status below 400, or as expected; 1: some were not; 2: the file or an argument
/// cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "processor invoke", bin_name = "processor invoke")]
pub struct Invoke {
    /// A file of requests, or a path of the function
    #[arg(value_name = "FILE|PATH", default_value = "/")]
    pub target: String,
    /// Where the function is, also of requests that name another host; without it they go there, and all others to
    /// <http://localhost:8080>
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Send only the request of this name
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Give a variable of the file this value
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = pair)]
    pub variables: Vec<(String, String)>,
    /// Method; without it POST with a body, GET without
    #[arg(short = 'X', long, value_name = "METHOD")]
    pub method: Option<String>,
    /// Body: a text, @FILE, or @- for standard input
    #[arg(short, long, value_name = "TEXT|@FILE")]
    pub body: Option<String>,
    /// A header more; it replaces one of the file
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub headers: Vec<(String, String)>,
    /// Ask for what the function logs from this level on, and show it
    #[arg(long, value_name = "LEVEL", value_parser = ["debug", "info", "warn", "error"])]
    pub log_level: Option<String>,
    /// Longest time of a request, such as 5s or 1m
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration)]
    pub timeout: Duration,
    /// Show the headers of answers
    #[arg(short, long)]
    pub include: bool,
    /// Show requests, headers and times
    #[arg(short, long)]
    pub verbose: bool,
}

/// Arguments of `processor blueprint`.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "processor blueprint", bin_name = "processor blueprint")]
pub struct Blueprint {
    /// The handler's runtime
    #[arg(long, value_name = "NAME", value_parser = runtime_name)]
    pub runtime: RuntimeKind,
    /// The function's name: letters in lower case, digits and hyphens; without it that of the folder
    #[arg(long, value_name = "NAME", value_parser = function_name)]
    pub name: Option<String>,
    /// Replace files that are there
    #[arg(long)]
    pub force: bool,
    /// The folder; it is made if it is not there
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// The command line asks for nothing to be run: a text to print and the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// What to print, line ends included.
    pub text: String,
    /// The exit code.
    pub code: u8,
    /// Where to print it.
    pub stream: Stream,
}

/// Where a text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Reads the arguments, the program's name not among them.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Command, Exit> {
    let arguments: Vec<String> = arguments.into_iter().collect();
    match arguments.first().map(String::as_str) {
        Some("dev") => parse_dev(&arguments),
        Some("invoke") => parse_with_clap(&arguments).map(Command::Invoke),
        Some("check") => parse_check(&arguments),
        Some("blueprint") => parse_with_clap(&arguments).map(Command::Blueprint),
        _ => parse_main(&arguments),
    }
}

/// What may have been meant by a first argument that is neither flag nor command.
pub fn unknown_command(word: &str) -> String {
    let meant = nearest(word, COMMANDS).map(|command| format!("did you mean {command}?"));
    let meant = meant.unwrap_or_else(|| format!("commands are {}", COMMANDS.join(", ")));
    format!("unknown command {word}, ignored; {meant}")
}

/// The text of `-list-runtimes`.
pub fn runtimes() -> String {
    RuntimeKind::NAMED.iter().map(|(name, _)| format!("{name}\n")).collect()
}

/// The text of `-version`.
pub fn version() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!(
        "Processor version:\n&version.Info{{Label:{:?}, GitCommit:{:?}, OS:{:?}, Arch:{arch:?}, GoVersion:\"\"}}\n",
        env!("CARGO_PKG_VERSION"),
        option_env!("NUCLIO_GIT_COMMIT").unwrap_or_default(),
        std::env::consts::OS,
    )
}

/// The flags of a start, as Go's `flag` package reads them.
#[derive(Default)]
struct Flags {
    config: Option<String>,
    platform_config: Option<String>,
    list_runtimes: bool,
    version: bool,
}

fn parse_main(arguments: &[String]) -> Result<Command, Exit> {
    let mut flags = Flags::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        // compat: the first argument that is no flag ends the flags, and it and all others are ignored.
        if argument == "--" || argument == "-" || !argument.starts_with('-') {
            break;
        }
        let flag = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')).unwrap_or(argument);
        if flag.is_empty() || flag.starts_with(['-', '=']) {
            return Err(usage(&format!("bad flag syntax: {argument}")));
        }
        let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
        flags.set(name, value, || rest.next().cloned())?;
    }
    let is_word = |first: &&String| !first.is_empty() && !first.starts_with('-');
    Ok(flags.into_command(arguments.first().filter(is_word).cloned()))
}

impl Flags {
    fn set(
        &mut self,
        name: &str,
        value: Option<&str>,
        next: impl FnOnce() -> Option<String>,
    ) -> Result<(), Exit> {
        let text = || {
            let value = value.map(str::to_owned).or_else(next);
            value.ok_or_else(|| usage(&format!("flag needs an argument: -{name}")))
        };
        match name {
            "config" => self.config = Some(text()?),
            "platform-config" => self.platform_config = Some(text()?),
            "list-runtimes" => self.list_runtimes = boolean(name, value)?,
            "version" => self.version = boolean(name, value)?,
            "h" | "help" => return Err(Exit { text: USAGE.into(), code: 0, stream: Stream::Stderr }),
            _ => return Err(usage(&format!("flag provided but not defined: -{name}"))),
        }
        Ok(())
    }

    fn into_command(self, ignored: Option<String>) -> Command {
        // compat: the list wins.
        if self.list_runtimes {
            return Command::ListRuntimes;
        }
        if self.version {
            return Command::Version;
        }
        Command::Run {
            config: self.config.unwrap_or_else(|| CONFIG.into()).into(),
            platform_config: self.platform_config.unwrap_or_else(|| PLATFORM_CONFIG.into()).into(),
            ignored,
        }
    }
}

fn boolean(name: &str, value: Option<&str>) -> Result<bool, Exit> {
    match value {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(value) => Err(usage(&format!("invalid boolean value {value:?} for -{name}: parse error"))),
    }
}

fn usage(wrong: &str) -> Exit {
    Exit { text: format!("{wrong}\n{USAGE}"), code: 2, stream: Stream::Stderr }
}

/// Serve one handler file without configuration.
#[derive(Parser)]
#[command(name = "processor dev", bin_name = "processor dev")]
struct DevArguments {
    /// The handler's file, and after a colon the handler's name in it; without it the demonstration handler
    #[arg(value_name = "FILE[:HANDLER]")]
    file: Option<String>,
    /// Port to listen on
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Address to listen on; without it only this computer can connect
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Number of workers
    #[arg(long, default_value_t = 1, value_parser = workers)]
    workers: usize,
    /// Runtime, when the file's ending does not tell
    #[arg(long, value_parser = runtime)]
    runtime: Option<RuntimeKind>,
    /// File of variables, NAME=value a line, for the handler and for the processor; those that are set already stay
    #[arg(long = "env-file", value_name = "FILE")]
    env_files: Vec<PathBuf>,
    /// Start again also when this file changes, or any in this folder
    #[arg(long, value_name = "PATH")]
    watch: Vec<PathBuf>,
    /// How records look
    #[arg(long, value_name = "text|json", default_value = "text", hide_possible_values = true)]
    log_format: LogFormat,
    #[command(flatten)]
    resumed: Resumed,
}

/// Check a function configuration and show its effective limits.
///
/// Errors are what a start would refuse. Warnings are accepted and can hardly be meant, such as unknown keys. Hints are
/// accepted here, but editors or the Go processor may not agree. Only errors make the exit code 1.
#[derive(Parser)]
#[command(name = "processor check", bin_name = "processor check")]
struct CheckArguments {
    /// The function configuration
    #[arg(value_name = "FILE", default_value = CONFIG)]
    file: PathBuf,
    /// The platform configuration
    #[arg(long, value_name = "FILE", default_value = PLATFORM_CONFIG)]
    platform_config: PathBuf,
    /// Print the JSON Schema of `processor.yaml` or `platform.yaml` for editors, and check nothing
    #[arg(long, value_name = "processor|platform", value_parser = schema, conflicts_with_all = ["file", "platform_config"])]
    schema: Option<Schema>,
}

fn schema(name: &str) -> Result<Schema, String> {
    let schema = Schema::ALL.into_iter().find(|schema| schema.name() == name);
    schema.ok_or_else(|| "write processor or platform".to_owned())
}

fn workers(text: &str) -> Result<usize, String> {
    let workers = text.parse().ok().filter(|workers| (1..=100_000).contains(workers));
    workers.ok_or_else(|| "write a number from 1 to 100000".to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    pair.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| "write NAME=VALUE".to_owned())
}

/// `Name: value`.
///
/// # Errors
/// What to write.
pub fn header(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once(':').map(|(name, value)| (name.trim(), value.trim()));
    let pair = pair.filter(|(name, value)| {
        http::HeaderName::from_bytes(name.as_bytes()).is_ok() && http::HeaderValue::from_str(value).is_ok()
    });
    pair.map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| "write `Name: value`".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = GoDuration::parse(text).ok().and_then(GoDuration::to_std).filter(|time| !time.is_zero());
    parsed.ok_or_else(|| "write a time such as 500ms, 5s or 2m".to_owned())
}

fn runtime(text: &str) -> Result<RuntimeKind, String> {
    runtime_name(text.split(':').next().unwrap_or(text))
}

fn runtime_name(name: &str) -> Result<RuntimeKind, String> {
    RuntimeKind::from_name(name)
        .ok_or_else(|| format!("use one of: {}", runtimes().trim().replace('\n', ", ")))
}

fn function_name(name: &str) -> Result<String, String> {
    if is_function_name(name) {
        return Ok(name.to_owned());
    }
    Err("write at most 63 letters in lower case, digits and hyphens, a letter among them, no hyphen at its ends, and \
         no word that YAML reads otherwise"
        .to_owned())
}

/// Whether a text can name a function, its image and its Kubernetes objects: a label of RFC 1123 in lower case that
/// YAML reads as a text.
pub fn is_function_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let words = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name.bytes().any(|byte| byte.is_ascii_lowercase())
        && !words.contains(&name)
        // A number with an exponent.
        && !name.split_once('e').is_some_and(|(before, after)| {
            !before.is_empty() && before.bytes().all(|b| b.is_ascii_digit())
                && after.strip_prefix('-').unwrap_or(after).bytes().all(|b| b.is_ascii_digit())
        })
}

fn parse_dev(arguments: &[String]) -> Result<Command, Exit> {
    let arguments: DevArguments = parse_with_clap(arguments)?;
    let (file, handler) = arguments.file.as_deref().map(file_and_handler).unzip();
    let host = if arguments.host.contains(':') { format!("[{}]", arguments.host) } else { arguments.host };
    Ok(Command::Dev(Dev {
        file: file.map(PathBuf::from),
        handler: handler.filter(|handler| !handler.is_empty()).map(str::to_owned),
        runtime: arguments.runtime,
        listen: format!("{host}:{}", arguments.port),
        workers: arguments.workers,
        env_files: arguments.env_files,
        watch: arguments.watch,
        log_format: arguments.log_format,
        resumed: arguments.resumed,
    }))
}

/// Only handlers of .NET, `Class:Method`, have a colon of their own; a file's name may have one anywhere.
fn file_and_handler(text: &str) -> (&str, &str) {
    if let Some(at) = text.find(".dll:") {
        return (&text[..at + 4], &text[at + 5..]);
    }
    text.rsplit_once(':').unwrap_or((text, ""))
}

fn parse_check(arguments: &[String]) -> Result<Command, Exit> {
    let arguments: CheckArguments = parse_with_clap(arguments)?;
    if let Some(schema) = arguments.schema {
        return Ok(Command::Schema(schema));
    }
    Ok(Command::Check { config: arguments.file, platform_config: arguments.platform_config })
}

/// Subcommands are read by clap; Go's single dash works there too.
fn parse_with_clap<T: Parser>(arguments: &[String]) -> Result<T, Exit> {
    let doubled = arguments.iter().map(|argument| {
        let is_long = argument.len() > 2 && argument.starts_with('-') && !argument.starts_with("--");
        if is_long { format!("-{argument}") } else { argument.clone() }
    });
    T::try_parse_from(doubled).map_err(|error| Exit {
        text: error.to_string(),
        code: if error.use_stderr() { 2 } else { 0 },
        stream: if error.use_stderr() { Stream::Stderr } else { Stream::Stdout },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &str) -> Result<Command, Exit> {
        parse(words.split_whitespace().map(str::to_owned))
    }

    fn run(config: &str, platform_config: &str) -> Result<Command, Exit> {
        Ok(Command::Run { config: config.into(), platform_config: platform_config.into(), ignored: None })
    }

    #[test]
    fn flags_are_read_as_go_reads_them() {
        let cases = [
            ("", run(CONFIG, PLATFORM_CONFIG)),
            ("-config a", run("a", PLATFORM_CONFIG)),
            ("-config=a", run("a", PLATFORM_CONFIG)),
            ("--config a --platform-config=b", run("a", "b")),
            ("--config=a -config b", run("b", PLATFORM_CONFIG)),
            ("-config a=b", run("a=b", PLATFORM_CONFIG)),
            ("-config -version", run("-version", PLATFORM_CONFIG)),
            ("-- -config a", run(CONFIG, PLATFORM_CONFIG)),
            ("- -config a", run(CONFIG, PLATFORM_CONFIG)),
            ("-config a check b", run("a", PLATFORM_CONFIG)),
            ("-version=f -config a", run("a", PLATFORM_CONFIG)),
            ("-version true -nonsense", Ok(Command::Version)),
            ("--version=T", Ok(Command::Version)),
            ("-version -list-runtimes", Ok(Command::ListRuntimes)),
            ("-list-runtimes=0 -version", Ok(Command::Version)),
        ];
        for (words, expected) in cases {
            assert_eq!(parse_words(words), expected, "{words}");
        }
    }

    #[test]
    fn a_first_word_that_is_no_command_is_ignored_as_go_does_and_remembered() {
        for (words, expected) in [
            ("foo -config a", Some("foo")),
            ("devv x.py", Some("devv")),
            ("other check a", Some("other")),
            ("-config a foo", None),
            ("-- foo", None),
            ("- foo", None),
        ] {
            let Ok(Command::Run { ignored, .. }) = parse_words(words) else { panic!("{words}") };
            assert_eq!(ignored.as_deref(), expected, "{words}");
        }
        assert_eq!(unknown_command("devv"), "unknown command devv, ignored; did you mean dev?");
        assert!(unknown_command("x.py").ends_with("; commands are dev, invoke, check, blueprint"));
    }

    #[test]
    fn wrong_flags_print_usage_and_end_with_2() {
        let cases = [
            ("-x", "flag provided but not defined: -x\n"),
            ("--x=1", "flag provided but not defined: -x\n"),
            ("-config", "flag needs an argument: -config\n"),
            ("-version=maybe", "invalid boolean value \"maybe\" for -version: parse error\n"),
            ("---config a", "bad flag syntax: ---config\n"),
            ("-=a", "bad flag syntax: -=a\n"),
            ("-config a -x -h", "flag provided but not defined: -x\n"),
        ];
        for (words, first) in cases {
            let exit = parse_words(words).expect_err(words);
            assert_eq!((exit.code, exit.stream), (2, Stream::Stderr), "{words}");
            assert_eq!(exit.text, format!("{first}{USAGE}"));
        }
    }

    #[test]
    fn help_goes_to_stderr_and_ends_with_0() {
        for words in ["-h", "--help", "-help", "-config a -h -x"] {
            let exit = parse_words(words).expect_err(words);
            assert_eq!(exit, Exit { text: USAGE.into(), code: 0, stream: Stream::Stderr });
        }
    }

    #[test]
    fn the_usage_names_the_real_defaults() {
        assert!(USAGE.contains(CONFIG) && USAGE.contains(PLATFORM_CONFIG));
    }

    #[test]
    fn subcommands_count_only_as_first_argument() {
        let dev = |file: Option<&str>, handler: Option<&str>, listen: &str, workers| {
            Ok(Command::Dev(Dev {
                file: file.map(PathBuf::from),
                handler: handler.map(str::to_owned),
                runtime: None,
                listen: listen.into(),
                workers,
                env_files: Vec::new(),
                watch: Vec::new(),
                log_format: LogFormat::Text,
                resumed: Resumed::default(),
            }))
        };
        let blueprint = |runtime, name: Option<&str>, force| {
            let name = name.map(str::to_owned);
            Ok(Command::Blueprint(Blueprint { runtime, name, force, folder: "d".into() }))
        };
        let check = |config: &str, platform_config: &str| {
            Ok(Command::Check { config: config.into(), platform_config: platform_config.into() })
        };
        let cases = [
            ("dev", dev(None, None, "127.0.0.1:8080", 1)),
            ("dev a.py:run --port 9 --workers 4", dev(Some("a.py"), Some("run"), "127.0.0.1:9", 4)),
            ("dev b/a.dll:N.Handler:Run", dev(Some("b/a.dll"), Some("N.Handler:Run"), "127.0.0.1:8080", 1)),
            ("dev a:b.py:run", dev(Some("a:b.py"), Some("run"), "127.0.0.1:8080", 1)),
            ("dev -port=9 a.py", dev(Some("a.py"), None, "127.0.0.1:9", 1)),
            ("dev --host ::1 a.py:", dev(Some("a.py"), None, "[::1]:8080", 1)),
            ("check", check(CONFIG, PLATFORM_CONFIG)),
            ("check a -platform-config b", check("a", "b")),
            ("check --schema platform", Ok(Command::Schema(Schema::Platform))),
            ("check -schema=processor", Ok(Command::Schema(Schema::Processor))),
            ("blueprint --runtime shell d", blueprint(RuntimeKind::Shell, None, false)),
            ("blueprint -runtime=java --name a-1 -force d", blueprint(RuntimeKind::Java, Some("a-1"), true)),
        ];
        for (words, expected) in cases {
            assert_eq!(parse_words(words), expected, "{words}");
        }
    }

    #[test]
    fn subcommands_refuse_and_explain_by_themselves() {
        for words in [
            "dev --workers 0",
            "dev --runtime cobol",
            "invoke a b",
            "invoke --timeout 0s a",
            "invoke --header nonsense a",
            "invoke --var x a",
            "dev --log-format xml",
            "check a b",
            "check --nonsense",
            "check --schema cron",
            "check a --schema platform",
            "blueprint d",
            "blueprint --runtime shell",
            "blueprint --runtime cobol d",
            "blueprint --runtime python:3.11 d",
            "blueprint --runtime shell --name Upper d",
        ] {
            let exit = parse_words(words).expect_err(words);
            assert_eq!((exit.code, exit.stream), (2, Stream::Stderr), "{words}");
        }
        let help = parse_words("dev --help").expect_err("help");
        assert_eq!((help.code, help.stream), (0, Stream::Stdout));
        assert!(help.text.contains("Usage: processor dev [OPTIONS] [FILE[:HANDLER]]"), "{}", help.text);
    }

    #[test]
    fn version_and_runtimes_have_the_form_of_the_go_processor() {
        let version = version();
        assert!(version.starts_with("Processor version:\n&version.Info{Label:\"0."), "{version}");
        for field in ["GitCommit:\"", "OS:\"linux\"", "Arch:\"", "GoVersion:\"\"}\n"] {
            assert!(version.contains(field), "{version}");
        }
        assert_eq!(runtimes(), "dotnetcore\ngolang\njava\nnodejs\npython\nruby\nshell\n");
    }

    #[test]
    fn names_are_labels_that_yaml_reads_as_texts() {
        for good in ["a", "hello", "my-function-2", "2d", "x1e3", "a123456789"] {
            assert!(is_function_name(good), "{good}");
        }
        let long = "a".repeat(64);
        for bad in
            ["", "Hello", "a_b", "a.b", "-a", "a-", "1", "12-3", "1e3", "1e-3", "yes", "null", "ä", &long]
        {
            assert!(!is_function_name(bad), "{bad}");
        }
    }
}
