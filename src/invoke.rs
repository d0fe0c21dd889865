//! `processor invoke`: sends the requests of a file, or one of the command line, to a function that runs anywhere, shows
//! the answers, and says by its exit code whether they are as they should be. Knows nothing of what serves them.

mod client;
mod expect;
mod http_file;
mod json_file;
mod sample;
mod show;
mod variables;

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;

use crate::cli::{self, Invoke};
use crate::config::Env;
use crate::run;
use client::Settings;
use sample::{Fault, Sample};
use show::Show;

/// Bytes of a file of requests.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Bytes of an answer that is looked at as a whole.
const WHOLE_BYTES_MAX: usize = 256 << 20;
/// The exit code for what cannot be sent at all.
const UNUSABLE: u8 = 2;

/// Sends what the arguments name.
pub fn run(arguments: &Invoke) -> ExitCode {
    let env = Env::from_process().unwrap_or_default();
    let show = Show::new(arguments.include, arguments.verbose, &env);
    let settings = Settings {
        url: arguments.url.clone(),
        headers: arguments.headers.clone(),
        log_level: arguments.log_level.clone(),
    };
    let prepared = samples(arguments).and_then(|samples| {
        let prepare = |sample: Sample| client::prepare(&sample, &settings).map(|outgoing| (sample, outgoing));
        samples.into_iter().map(prepare).collect::<Result<Vec<_>, _>>()
    });
    let requests = match prepared {
        Ok(requests) => requests,
        Err(wrong) => {
            show.complain(&format!("processor invoke: {wrong}"));
            return ExitCode::from(UNUSABLE);
        }
    };
    let several = requests.len() > 1;
    let mut all_good = true;
    let ran = run::block_on(async {
        for (sample, outgoing) in requests {
            if let Err(wrong) = one(&sample, outgoing, arguments.timeout, several, show).await {
                all_good = false;
                show.complain(&wrong);
            }
        }
        Ok(())
    });
    if let Err(error) = ran {
        show.complain(&format!("processor invoke: {error:#}"));
        return ExitCode::FAILURE;
    }
    if all_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What is to be sent.
fn samples(arguments: &Invoke) -> Result<Vec<Sample>, String> {
    let target = arguments.target.as_str();
    let path = Path::new(target);
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let mut samples = match ending.as_str() {
        "http" | "rest" | "json" if !target.contains("://") => {
            let text = read(path)?;
            let parsed = match ending.as_str() {
                "json" => json_file::parse(path, &text),
                _ => http_file::parse(path, &text, &arguments.variables),
            };
            parsed.map_err(|fault| fault.to_string())?
        }
        _ if target.starts_with('/') || target.contains("://") => {
            vec![Sample { target: target.to_owned(), ..Sample::default() }]
        }
        _ => {
            return Err(format!(
                "{target} is neither a file of requests (.http, .rest, .json) nor a path, which begins with /"
            ));
        }
    };
    if let Some(name) = &arguments.name {
        let names: Vec<String> =
            samples.iter().map(|sample| sample.name.clone()).filter(|name| !name.is_empty()).collect();
        samples.retain(|sample| sample.name == *name);
        if samples.is_empty() {
            let names = if names.is_empty() {
                "none has a name".to_owned()
            } else {
                format!("there are {}", names.join(", "))
            };
            return Err(format!("{target}: no request is called {name}; {names}"));
        }
    }
    let body = arguments.body.as_deref().map(body).transpose()?;
    for sample in &mut samples {
        if let Some(method) = &arguments.method {
            sample.method.clone_from(method);
        }
        if let Some(body) = &body {
            sample.body.clone_from(body);
        }
    }
    Ok(samples)
}

fn read(path: &Path) -> Result<String, String> {
    let fault = |wrong: String| Fault::new(path, 0, wrong).to_string();
    let metadata = std::fs::metadata(path).map_err(|error| fault(format!("cannot read it: {error}")))?;
    if metadata.is_dir() || metadata.len() > FILE_BYTES_MAX {
        return Err(fault("it is a folder, or larger than 64 MiB; name a file of requests".to_owned()));
    }
    std::fs::read_to_string(path).map_err(|error| fault(format!("cannot read it: {error}")))
}

/// A body of the command line: itself, or what a file or standard input holds.
fn body(text: &str) -> Result<Vec<u8>, String> {
    let Some(name) = text.strip_prefix('@') else { return Ok(text.as_bytes().to_vec()) };
    if name == "-" {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut bytes);
        return read
            .map(|_| bytes)
            .map_err(|error| format!("cannot read the body from standard input: {error}"));
    }
    std::fs::read(name).map_err(|error| format!("cannot read the body from {name}: {error}"))
}

/// Sends one request and shows its answer.
///
/// # Errors
/// Why the answer is not good, or why there is none.
async fn one(
    sample: &Sample,
    outgoing: client::Outgoing,
    limit: Duration,
    several: bool,
    show: Show,
) -> Result<(), String> {
    let title = if several {
        format!("{} {} {}", sample.name, sample.method(), sample.target)
    } else {
        String::new()
    };
    let title = if several { format!("### {}\n", title.trim_start()) } else { title };
    show.request(&outgoing.request);
    let began = Instant::now();
    let mut answer = client::send(outgoing, limit).await.map_err(|wrong| format!("{title}{wrong}"))?;
    show.head(&title, &answer.response, began.elapsed());
    let left = limit.saturating_sub(began.elapsed());
    let whole = sample.expect.is_some() || show.wants_whole(answer.response.headers());
    let reading = take(&mut answer, whole, several, show);
    let body = tokio::time::timeout(left, reading).await.unwrap_or_else(|_| {
        Err(format!("the answer was not complete within {limit:?}; --timeout gives it longer"))
    })?;
    let (status, headers) = (answer.response.status().as_u16(), answer.response.headers());
    match &sample.expect {
        None if status >= 400 => Err(format!("answered with status {status}")),
        None => Ok(()),
        Some(expected) => match expected.differences(status, headers, &body) {
            differences if differences.is_empty() => Ok(()),
            differences => Err(format!("not as expected:\n  {}", differences.join("\n  "))),
        },
    }
}

/// Shows a body, and returns it where it was wanted as a whole.
async fn take(
    answer: &mut client::Answer,
    whole: bool,
    several: bool,
    show: Show,
) -> Result<Vec<u8>, String> {
    let headers = answer.response.headers().clone();
    let (mut body, mut last) = (Vec::new(), None);
    while let Some(frame) = answer.response.body_mut().frame().await {
        let frame = frame.map_err(|error| format!("the answer broke off: {}", client::causes(&error)))?;
        let Ok(piece) = frame.into_data() else { continue };
        last = piece.last().copied().or(last);
        if !whole {
            show.piece(&piece);
            continue;
        }
        if body.len() + piece.len() > WHOLE_BYTES_MAX {
            return Err(format!("the answer is larger than {} MiB", WHOLE_BYTES_MAX >> 20));
        }
        body.extend_from_slice(&piece);
    }
    if whole {
        show.body(&headers, &body);
    }
    show.end(last, several);
    Ok(body)
}

/// `Name: value` of a file.
fn header(line: &str) -> Result<(String, String), String> {
    cli::header(line).map_err(|advice| {
        let shown: String = line.chars().take(80).collect();
        format!("cannot read {shown:?} as a header; {advice}, and an empty line before the body")
    })
}
