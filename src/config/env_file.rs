//! Files of environment variables, `NAME=value` a line, as `dotenv` reads them.

use std::io::ErrorKind;
use std::path::Path;

use super::error::{ConfigError, Problem};

/// Bytes of a file that is still taken for one of variables.
const BYTES_MAX: u64 = 4 << 20;

/// The variables of a file, in its order; of a name that comes twice both.
///
/// # Errors
/// The file cannot be read, or one of its lines cannot; with its number.
pub fn read(file: &Path) -> Result<Vec<(String, String)>, ConfigError> {
    let problem = |wrong: String| Problem::new(wrong).file(file);
    let refuse = |problem: Box<Problem>| ConfigError::Environment(problem);
    let text = read_text(file).map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::NotFound => "correct --env-file, or make the file",
            ErrorKind::PermissionDenied => "make it readable for this user",
            _ => "it has to be a text file with lines NAME=value",
        };
        refuse(problem(format!("cannot read the file of variables: {error}")).remedy(remedy))
    })?;
    let mut variables = Vec::new();
    for item in dotenvy::from_read_iter(text.as_bytes()) {
        match item {
            Ok((name, value)) if !name.contains('\0') && !value.contains('\0') => {
                variables.push((name, value))
            }
            Ok((name, _)) => {
                return Err(refuse(
                    problem(format!("the value of {name} holds a NUL byte")).remedy("remove it"),
                ));
            }
            Err(dotenvy::Error::LineParse(line, _)) => {
                // A line that cannot be read ends the reading, so the first like it is the one.
                let before = text.find(line.trim_end_matches('\n')).unwrap_or_default();
                let number = text[..before].matches('\n').count() + 1;
                let problem = problem(format!("cannot read {:?}", shorten(&line))).line(number);
                return Err(refuse(problem.remedy("write NAME=value; quote values with blanks, $ or #")));
            }
            Err(error) => return Err(refuse(problem(error.to_string()).remedy("write lines NAME=value"))),
        }
    }
    Ok(variables)
}

fn read_text(file: &Path) -> std::io::Result<String> {
    let metadata = std::fs::metadata(file)?;
    if metadata.is_dir() {
        return Err(std::io::Error::new(ErrorKind::IsADirectory, "it is a directory"));
    }
    if metadata.len() > BYTES_MAX {
        return Err(std::io::Error::new(ErrorKind::FileTooLarge, "it has more than 4 MiB"));
    }
    let text = std::fs::read_to_string(file)?;
    Ok(text.trim_start_matches('\u{feff}').to_owned())
}

/// The name alone of what may be a secret.
fn shorten(line: &str) -> String {
    let line = line.trim();
    match line.split_once('=') {
        Some((name, value)) if !value.is_empty() => format!("{name}=…"),
        _ => line.chars().take(60).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: impl AsRef<[u8]>) -> Result<Vec<(String, String)>, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("my.env");
        std::fs::write(&file, text).unwrap();
        read(&file).map_err(|error| error.to_string().replace(&file.display().to_string(), "my.env"))
    }

    #[test]
    fn names_and_values_are_read_as_dotenv_does() {
        let text =
            "\u{feff}# comment\n\nA=1\nexport B = two # more\nC='a b $A'\nD=\"x\\ny\"\nE=${A}2\nF=\r\nA=3\n";
        let pairs = of(text).unwrap();
        let shown: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}:{value}")).collect();
        assert_eq!(shown, ["A:1", "B:two", "C:a b $A", "D:x\ny", "E:12", "F:", "A:3"]);
    }

    #[test]
    fn mistakes_are_named_with_file_line_and_remedy_and_without_values() {
        for (text, expected) in [
            ("A=1\n\nnonsense\n", "my.env:3: cannot read \"nonsense\"; write NAME=value"),
            ("A=1\nB=it's secret\n", "my.env:2: cannot read \"B=…\"; write NAME=value"),
            ("A=1\n=x\n", "my.env:2: "),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.starts_with(expected) && !error.contains("secret\""), "{error}");
        }
        assert!(of([0xff, b'=', b'1']).unwrap_err().contains("my.env: cannot read the file of variables"));
        assert!(read(Path::new("/nowhere/.env")).unwrap_err().to_string().contains("correct --env-file"));
        assert!(read(Path::new("/")).unwrap_err().to_string().contains("it is a directory"));
    }
}
