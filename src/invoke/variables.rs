//! Placeholders `{{name}}` in files of requests.

use std::time::SystemTime;

use jiff::Timestamp;

use crate::config::Env;

/// Placeholders within values of placeholders.
const DEPTH_MAX: usize = 16;
/// Bytes that a text may grow to.
const BYTES_MAX: usize = 16 << 20;
/// Placeholders that are filled in one text, those within values among them.
const PLACEHOLDERS_MAX: usize = 20_000;

/// Values by name.
#[derive(Debug, Default)]
pub(super) struct Variables {
    /// Of the command line: they win.
    given: Vec<(String, String)>,
    /// Of the file, the last one of a name counts.
    own: Vec<(String, String)>,
}

impl Variables {
    pub(super) fn new(given: &[(String, String)]) -> Self {
        Self { given: given.to_vec(), own: Vec::new() }
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.own.push((name.to_owned(), value.to_owned()));
    }

    /// The text with values in the place of names.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub(super) fn fill(&self, text: &str) -> Result<String, String> {
        self.fill_to(text, 0, &mut { PLACEHOLDERS_MAX })
    }

    fn fill_to(&self, text: &str, depth: usize, left: &mut usize) -> Result<String, String> {
        if depth > DEPTH_MAX {
            return Err("variables name each other in a circle; give one of them a value".to_owned());
        }
        let (mut out, mut rest) = (String::with_capacity(text.len()), text);
        while let Some((before, behind)) = rest.split_once("{{") {
            let Some((name, after)) = behind.split_once("}}") else { break };
            *left = left.checked_sub(1).ok_or("variables name each other too often; give them values")?;
            out.push_str(before);
            out.push_str(&self.value(name.trim(), depth, left)?);
            if out.len() > BYTES_MAX {
                return Err("variables make a text of more than 16 MiB".to_owned());
            }
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }

    fn value(&self, name: &str, depth: usize, left: &mut usize) -> Result<String, String> {
        if let Some(dynamic) = name.strip_prefix('$') {
            return dynamic_value(dynamic);
        }
        let own = || self.own.iter().rev().find(|(other, _)| other == name);
        match self.given.iter().rev().find(|(other, _)| other == name) {
            Some((_, value)) => Ok(value.clone()),
            None => match own() {
                Some((_, value)) => self.fill_to(value, depth + 1, left),
                None => Err(format!("no variable {name}; write @{name} = …, or give --var {name}=…")),
            },
        }
    }
}

/// What editors know without being told.
fn dynamic_value(text: &str) -> Result<String, String> {
    let mut words = text.split_whitespace();
    let now = Timestamp::try_from(SystemTime::now()).unwrap_or_default();
    let name = words.next().unwrap_or_default();
    let first = words.next();
    match name {
        "guid" | "uuid" | "random.uuid" => {
            let bits = (fastrand::u128(..) & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
            let hex = format!("{bits:032x}");
            let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
            Ok(parts.join("-"))
        }
        "timestamp" => Ok(now.as_second().to_string()),
        "isoTimestamp" => Ok(now.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()),
        "datetime" if first == Some("iso8601") => Ok(now.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()),
        "datetime" if first == Some("rfc1123") => Ok(now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()),
        "randomInt" | "random.integer" => {
            let (low, high) = (first.unwrap_or("0"), words.next().unwrap_or("1000"));
            match (low.parse::<i64>(), high.parse::<i64>()) {
                (Ok(low), Ok(high)) if low < high => Ok(fastrand::i64(low..high).to_string()),
                _ => Err(format!("cannot draw from {low} to {high}; write {{{{$randomInt 0 100}}}}")),
            }
        }
        "processEnv" | "env" if first.is_some() => {
            let variable = first.unwrap_or_default();
            Env::named(variable).ok_or_else(|| format!("the environment has no variable {variable}; set it"))
        }
        _ => Err(format!(
            "{{{{${text}}}}} is not known; there are $guid, $timestamp, $isoTimestamp, $datetime iso8601, \
             $randomInt MIN MAX and $processEnv NAME"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_replaced_by_values_that_may_hold_names() {
        let mut variables = Variables::new(&[("given".to_owned(), "{{raw}}".to_owned())]);
        variables.set("a", "1");
        variables.set("b", "{{a}}{{ given }}");
        variables.set("given", "own");
        assert_eq!(variables.fill("x{{b}}y {{").unwrap(), "x1{{raw}}y {{");
        assert!(variables.fill("{{none}}").unwrap_err().contains("--var none=…"));
        variables.set("c", "{{d}}");
        variables.set("d", "{{c}}");
        assert!(variables.fill("{{c}}").unwrap_err().contains("circle"));
        let mut name = "a".to_owned();
        for level in 0..14 {
            let next = format!("n{level}");
            variables.set(&next, &format!("{{{{{name}}}}}").repeat(40));
            name = next;
        }
        assert!(variables.fill(&format!("{{{{{name}}}}}")).unwrap_err().contains("too often"));
        variables.set("large", &"x".repeat(1 << 20));
        assert!(variables.fill(&"{{large}}".repeat(17)).unwrap_err().contains("16 MiB"));
    }

    #[test]
    fn what_editors_know_is_known() {
        let variables = Variables::default();
        let guid = variables.fill("{{$guid}}").unwrap();
        assert!(guid.len() == 36 && &guid[14..15] == "4", "{guid}");
        assert!(variables.fill("{{$timestamp}}").unwrap().parse::<u64>().is_ok());
        let number: i64 = variables.fill("{{$randomInt 5 7}}").unwrap().parse().unwrap();
        assert!((5..7).contains(&number));
        assert!(variables.fill("{{$processEnv PATH}}").is_ok());
        assert!(variables.fill("{{$randomInt 7 5}}").is_err() && variables.fill("{{$nonsense}}").is_err());
    }
}
