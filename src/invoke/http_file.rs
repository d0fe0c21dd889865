//! Files of requests as HTTP clients of editors have them (VS Code REST Client, JetBrains): requests between lines `###`,
//! `@name = value`, `{{name}}`, `# @name`, bodies from files by `< path`. Scripts are not run.

use std::path::Path;

use super::sample::{Fault, Sample};
use super::variables::Variables;

/// Bytes of a body that comes from a file.
const BODY_BYTES_MAX: u64 = 1 << 30;

/// All requests of a file, in its order.
///
/// # Errors
/// What is wrong, with the line.
pub(super) fn parse(file: &Path, text: &str, given: &[(String, String)]) -> Result<Vec<Sample>, Fault> {
    let mut variables = Variables::new(given);
    let lines: Vec<&str> = text.trim_start_matches('\u{feff}').lines().collect();
    // Variables count for the whole file, wherever they stand before a request.
    let mut parts: Vec<Part<'_>> = vec![Part::default()];
    for (at, line) in lines.iter().enumerate() {
        if let Some(title) = line.strip_prefix("###") {
            parts.push(Part { title: title.trim_matches('#').trim(), lines: Vec::new() });
        } else if let Some(part) = parts.last_mut() {
            part.lines.push((at + 1, line));
        }
    }
    for part in &parts {
        part.set_variables(&mut variables);
    }
    let mut samples = Vec::new();
    for part in &parts {
        if let Some(sample) = part.read(file, &variables)? {
            samples.push(sample);
        }
    }
    if samples.is_empty() {
        return Err(Fault::new(file, 0, "there is no request in it; write a line such as `GET /path`"));
    }
    Ok(samples)
}

/// What stands between two separators.
#[derive(Default)]
struct Part<'a> {
    title: &'a str,
    /// With their numbers.
    lines: Vec<(usize, &'a str)>,
}

impl Part<'_> {
    /// The index of the request's line.
    fn start(&self) -> usize {
        let head = |line: &str| !line.trim().is_empty() && comment(line).is_none() && !line.starts_with('@');
        self.lines.iter().position(|(_, line)| head(line)).unwrap_or(self.lines.len())
    }

    fn set_variables(&self, variables: &mut Variables) {
        for (_, line) in &self.lines[..self.start()] {
            if let Some((name, value)) = line.strip_prefix('@').and_then(|line| line.split_once('=')) {
                variables.set(name.trim(), value.trim());
            }
        }
    }

    /// `None`: it holds no request.
    fn read(&self, file: &Path, variables: &Variables) -> Result<Option<Sample>, Fault> {
        let start = self.start();
        let mut sample = Sample { name: self.title.to_owned(), ..Sample::default() };
        for (number, line) in &self.lines[..start] {
            if let Some(name) = comment(line).and_then(|text| text.strip_prefix("@name")) {
                sample.name = name.trim_start_matches(['=', ' ', '\t']).trim().to_owned();
            }
            if line.starts_with('@') && !line.contains('=') {
                return Err(Fault::new(file, *number, format!("cannot read {line:?}; write @name = value")));
            }
        }
        let Some((number, line)) = self.lines.get(start) else { return Ok(None) };
        if line.trim_start().starts_with("< {%") {
            return Err(Fault::new(file, *number, "scripts are not run; remove it, or use --var"));
        }
        let fill =
            |number: usize, text: &str| variables.fill(text).map_err(|wrong| Fault::new(file, number, wrong));
        let mut at = start + 1;
        let mut target = line.trim().to_owned();
        // A long address goes on in lines that are indented.
        while let Some((_, more)) =
            self.lines.get(at).filter(|(_, line)| line.starts_with([' ', '\t']) && !line.trim().is_empty())
        {
            target.push_str(more.trim());
            at += 1;
        }
        (sample.method, sample.target) =
            request_line(&fill(*number, &target)?).map_err(|wrong| Fault::new(file, *number, wrong))?;
        while let Some((number, line)) = self.lines.get(at) {
            at += 1;
            if line.trim().is_empty() {
                break;
            }
            if comment(line).is_some() {
                continue;
            }
            let header = fill(*number, line)?;
            let header = super::header(&header).map_err(|wrong| Fault::new(file, *number, wrong))?;
            sample.headers.push(header);
        }
        sample.body = self.body(at, file, &sample, &fill)?;
        Ok(Some(sample))
    }

    fn body(
        &self,
        at: usize,
        file: &Path,
        sample: &Sample,
        fill: &impl Fn(usize, &str) -> Result<String, Fault>,
    ) -> Result<Vec<u8>, Fault> {
        let kind = sample.header("Content-Type").unwrap_or_default().to_ascii_lowercase();
        let line_end: &[u8] = if kind.starts_with("multipart/") {
            b"\r\n"
        } else if kind.starts_with("application/x-www-form-urlencoded") {
            b"" // Written a field a line.
        } else {
            b"\n"
        };
        let mut body = Vec::new();
        let mut lines = self.lines.get(at..).unwrap_or_default();
        while let Some((rest, _)) =
            lines.split_last().map(|(last, rest)| (rest, last)).filter(|(_, last)| last.1.trim().is_empty())
        {
            lines = rest;
        }
        let first = lines.iter().position(|(_, line)| !line.trim().is_empty()).unwrap_or(0);
        for (at, (number, line)) in lines[first..].iter().enumerate() {
            // What an editor does with the answer is its own business.
            if line.starts_with("> {%")
                || line.starts_with("> ") && line.ends_with(".js")
                || line.starts_with("<> ")
            {
                break;
            }
            if at > 0 {
                body.extend_from_slice(line_end);
            }
            let named = line.strip_prefix("<@").or_else(|| line.strip_prefix('<'));
            match named.filter(|name| name.starts_with([' ', '\t'])) {
                Some(name) => {
                    let name = fill(*number, name.trim())?;
                    let bytes = read(file, &name).map_err(|wrong| Fault::new(file, *number, wrong))?;
                    match line.starts_with("<@") {
                        true => body
                            .extend_from_slice(fill(*number, &String::from_utf8_lossy(&bytes))?.as_bytes()),
                        false => body.extend_from_slice(&bytes),
                    }
                }
                None if line_end.is_empty() => body.extend_from_slice(fill(*number, line)?.trim().as_bytes()),
                None => body.extend_from_slice(fill(*number, line)?.as_bytes()),
            }
        }
        while body.last().is_some_and(|byte| *byte == b'\n') && line_end == b"\n" {
            body.pop();
        }
        Ok(body)
    }
}

/// A file beside that of the requests.
fn read(beside: &Path, name: &str) -> Result<Vec<u8>, String> {
    let path = beside.parent().unwrap_or(Path::new("")).join(name);
    let shown = path.display();
    let metadata = std::fs::metadata(&path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    if !metadata.is_file() {
        return Err(format!("cannot read {shown}: it is no file"));
    }
    if metadata.len() > BODY_BYTES_MAX {
        return Err(format!("{shown} has more than 1 GiB"));
    }
    std::fs::read(&path).map_err(|error| format!("cannot read {shown}: {error}"))
}

/// A comment's text.
fn comment(line: &str) -> Option<&str> {
    let line = line.trim_start();
    line.strip_prefix("//").or_else(|| line.strip_prefix('#')).map(str::trim)
}

/// Method, be it empty, and target of `POST http://host/path HTTP/1.1`.
fn request_line(line: &str) -> Result<(String, String), String> {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    if words.last().is_some_and(|last| last.starts_with("HTTP/")) {
        words.pop();
    }
    let is_target = |word: &str| word.starts_with('/') || word.contains("://") || word == "*";
    match words.as_slice() {
        [target] if is_target(target) => Ok((String::new(), (*target).to_owned())),
        [method, target] if is_target(target) && http::Method::from_bytes(method.as_bytes()).is_ok() => {
            Ok(((*method).to_owned(), (*target).to_owned()))
        }
        _ => Err(format!(
            "cannot read {:?} as a request; write `METHOD /path` or `METHOD http://host/path`",
            shorten(line)
        )),
    }
}

fn shorten(line: &str) -> String {
    line.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<Sample>, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("body.txt"), "from a file {{x}}\n").unwrap();
        let file = folder.path().join("r.http");
        let parsed = parse(&file, text, &[("given".to_owned(), "yes".to_owned())]);
        parsed.map_err(|fault| fault.to_string().replace(&folder.path().display().to_string(), "D"))
    }

    fn one(text: &str) -> Sample {
        let mut all = of(text).unwrap();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    #[test]
    fn requests_have_lines_headers_and_bodies() {
        let text = "@host = http://h:1\n@path={{host}}/p\n\n### first\n# a comment\nPOST {{path}} HTTP/1.1\n\
                    Content-Type: text/plain\n// another\nX-A: {{given}}\n\none\n\ntwo\n\n### \n// @name second\nGET /x\n  ?a=1\n  &b=2\n\n\n###\n\n###\n/plain\n";
        let all = of(text).unwrap();
        let shown: Vec<_> = all.iter().map(|s| (s.name.as_str(), s.method(), s.target.as_str())).collect();
        let expected =
            [("first", "POST", "http://h:1/p"), ("second", "GET", "/x?a=1&b=2"), ("", "GET", "/plain")];
        assert_eq!(shown, expected);
        assert_eq!(all[0].body, b"one\n\ntwo");
        assert_eq!(all[0].header("x-a"), Some("yes"));
    }

    #[test]
    fn bodies_come_from_files_and_take_the_form_of_their_type() {
        assert_eq!(one("POST /\n\n< body.txt\n").body, b"from a file {{x}}");
        assert_eq!(one("@x = 1\nPOST /\n\n<@ body.txt\nrest\n").body, b"from a file 1\n\nrest");
        let form = "POST /\nContent-Type: application/x-www-form-urlencoded\n\na=1\n&b=2\n";
        assert_eq!(one(form).body, b"a=1&b=2");
        let parts = "POST /\nContent-Type: multipart/form-data; boundary=x\n\n--x\nA: b\n\nc\n--x--\n";
        assert_eq!(one(parts).body, b"--x\r\nA: b\r\n\r\nc\r\n--x--");
        assert_eq!(one("POST /\r\n\r\n{\r\n}\r\n\r\n> {% client.test() %}\r\n").body, b"{\n}");
        assert_eq!(one("POST /\n\n<html>\n").body, b"<html>");
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, expected) in [
            ("", "D/r.http: there is no request in it"),
            ("\n\nnonsense here\n", "D/r.http:3: cannot read \"nonsense here\" as a request"),
            ("GET /\nNo header\n", "D/r.http:2: cannot read \"No header\" as a header"),
            ("GET /\n\n### a\nGET /{{none}}\n", "D/r.http:4: no variable none"),
            ("POST /\n\n< none.txt\n", "D/r.http:3: cannot read D/none.txt: "),
            ("POST /\n\n< .\n", "D/r.http:3: cannot read D/.: it is no file"),
            ("@nonsense\nGET /\n", "D/r.http:1: cannot read \"@nonsense\"; write @name = value"),
            ("< {% x %}\nGET /\n", "D/r.http:1: scripts are not run"),
            ("G(T /\n", "D/r.http:1: cannot read"),
            ("GET /\nX: a\u{1}b\n", "D/r.http:2: "),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
