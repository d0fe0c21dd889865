//! `docs/compatibility.md` as a list: every difference is whole, what it names exists, and nothing differs without a row.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

/// Columns of a difference, and of what is not served yet.
const DIFFERENCE: [&str; 6] = ["id", "topic", "the reference", "here", "why", "shown by"];
const NOT_SERVED: [&str; 4] = ["id", "what", "here", "shown by"];
/// Languages whose handler cases are run.
const SERVED: [&str; 7] = ["python", "nodejs", "java", "dotnetcore", "ruby", "shell", "golang"];
/// Folders with tests.
const TESTS: [&str; 4] = ["src", "tests", "runtimes", "benches"];

/// A row of the page: its id, the line it stands in, what shows it.
struct Row {
    id: String,
    line: usize,
    shown_by: Vec<String>,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn cells(line: &str) -> Vec<String> {
    line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}

/// All words in backticks of a cell; anything else but commas between them is a mistake.
pub fn words(cell: &str) -> Result<Vec<String>, String> {
    let parts: Vec<&str> = cell.split('`').collect();
    let between = parts.iter().step_by(2).all(|text| text.trim().trim_matches(',').trim().is_empty());
    let words: Vec<String> = parts.iter().skip(1).step_by(2).map(|word| (*word).to_owned()).collect();
    if !between || words.is_empty() { Err(format!("not a list of names: {cell}")) } else { Ok(words) }
}

/// The rows of a text, and what is wrong with it.
fn parse(text: &str) -> (Vec<Row>, Vec<String>) {
    let (mut rows, mut wrong) = (Vec::new(), Vec::new());
    let mut columns = 0;
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if !line.starts_with('|') {
            columns = 0;
            continue;
        }
        let cells = cells(line);
        if columns == 0 {
            if cells != DIFFERENCE && cells != NOT_SERVED {
                wrong.push(format!("line {number}: the columns must be {DIFFERENCE:?} or {NOT_SERVED:?}"));
            }
            columns = cells.len();
        } else if cells.iter().any(|cell| !cell.chars().all(|c| c == '-' || c == ':') || cell.is_empty()) {
            match row(&cells, columns, number) {
                Ok(row) => rows.push(row),
                Err(what) => wrong.push(format!("line {number}: {what}")),
            }
        }
    }
    (rows, wrong)
}

fn row(cells: &[String], columns: usize, line: usize) -> Result<Row, String> {
    if cells.len() != columns {
        return Err(format!("{} cells, not {columns}", cells.len()));
    }
    if let Some(empty) = cells.iter().position(String::is_empty) {
        return Err(format!("cell {} is empty", empty + 1));
    }
    let id = match words(&cells[0])?.as_slice() {
        [id] if id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') => id.clone(),
        _ => return Err(format!("no id: {}", cells[0])),
    };
    Ok(Row { id, line, shown_by: words(&cells[columns - 1])? })
}

/// The rows of the page, which must be whole.
fn rows() -> &'static [Row] {
    static ROWS: OnceLock<Vec<Row>> = OnceLock::new();
    ROWS.get_or_init(|| {
        let text = std::fs::read_to_string(root().join("docs/compatibility.md")).unwrap();
        let (rows, wrong) = parse(&text);
        assert!(wrong.is_empty(), "docs/compatibility.md:\n{}", wrong.join("\n"));
        rows
    })
}

/// Whether a row says why a case (`http:NAME`, `python:NAME`, …) is not as the reference has it.
pub fn explains(case: &str) -> bool {
    rows().iter().any(|row| row.shown_by.iter().any(|name| name == case))
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
            files(&path, found);
        } else if path
            .extension()
            .is_some_and(|ending| ["rs", "py", "rb"].iter().any(|known| ending == *known))
        {
            found.push(path);
        }
    }
}

/// Names of the tests in a source file.
fn tests_in(text: &str) -> impl Iterator<Item = String> + '_ {
    let mut marked = false;
    text.lines().filter_map(move |line| {
        let line = line.trim_start();
        let function = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn "));
        let name = match (function, line.strip_prefix("def ")) {
            (Some(function), _) if std::mem::take(&mut marked) => Some(function),
            (None, Some(function)) if function.starts_with("test_") => Some(function),
            _ => None,
        };
        marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        name.and_then(|name| name.split('(').next()).map(str::to_owned)
    })
}

/// Names of all tests, and the cases of the vectors.
pub fn known() -> BTreeSet<String> {
    let mut sources = Vec::new();
    TESTS.iter().for_each(|folder| files(&root().join(folder), &mut sources));
    let texts = sources.iter().map(|path| std::fs::read_to_string(path).unwrap());
    let mut known: BTreeSet<String> = texts.flat_map(|text| tests_in(&text).collect::<Vec<_>>()).collect();
    let http = vectors("http.json", "vectors");
    known.extend(http.iter().map(|vector| format!("http:{}", vector["name"].as_str().unwrap())));
    known.extend(
        handler_cases()
            .iter()
            .map(|(language, case)| format!("{language}:{}", case["name"].as_str().unwrap())),
    );
    known
}

fn vectors(file: &str, key: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(root().join("tests/vectors").join(file)).unwrap();
    let mut file: Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(file[key].take()).unwrap()
}

/// The cases of the languages that are served, with the language.
fn handler_cases() -> Vec<(&'static str, Value)> {
    let cases = vectors("handlers.json", "cases").into_iter();
    let served = |case: &Value| SERVED.iter().find(|language| case["language"] == **language).copied();
    cases.filter_map(|case| Some((served(&case)?, case))).collect()
}

#[test]
fn every_row_is_whole_and_names_tests_that_exist() {
    let known = known();
    let mut wrong = Vec::new();
    let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows() {
        if let Some(other) = lines.insert(&row.id, row.line) {
            wrong.push(format!("line {}: {} stands in line {other} too", row.line, row.id));
        }
        for name in row.shown_by.iter().filter(|name| !known.contains(*name)) {
            wrong.push(format!("line {}: {}: there is no test {name}", row.line, row.id));
        }
    }
    println!("{} differences, all of them shown by a test", rows().len());
    assert!(wrong.is_empty(), "docs/compatibility.md:\n{}", wrong.join("\n"));
}

/// What the vectors say of themselves; which form of an answer is really given, the runner of the vectors compares.
#[test]
fn every_vector_that_differs_from_the_reference_has_a_row() {
    let differs = |case: &&Value| {
        ["reference_differs", "reference_expected", "reference", "ours"]
            .iter()
            .any(|key| !case[*key].is_null())
    };
    let (http, handlers) = (vectors("http.json", "vectors"), handler_cases());
    let http = http.iter().filter(differs).map(|case| ("http", case));
    let all = http
        .chain(handlers.iter().map(|(language, case)| (*language, case)).filter(|(_, case)| differs(case)));
    // What the reference does with acknowledgements is not seen over HTTP.
    let seen = all.filter(|(_, case)| case["name"] != "stream-no-ack");
    let names = seen.map(|(area, case)| format!("{area}:{}", case["name"].as_str().unwrap()));
    let missing: Vec<String> = names.filter(|name| !explains(name)).collect();
    assert!(missing.is_empty(), "no row of docs/compatibility.md explains {missing:?}");
}

#[test]
fn rows_that_are_not_whole_are_found() {
    let head = "| id | topic | the reference | here | why | shown by |\n|---|---|---|---|---|---|\n";
    for (row, wrong) in [
        ("| `a` | t | r | h | w | `test_a` |", None),
        ("| `a` | t | r | h | w | `test_a`, `http:b` |", None),
        ("| `a` | t | r | h | w | |", Some("cell 6 is empty")),
        ("| `a` | t | r | h | | `test_a` |", Some("cell 5 is empty")),
        ("| `a` | t | r | h | `test_a` |", Some("5 cells, not 6")),
        ("| a | t | r | h | w | `test_a` |", Some("not a list of names: a")),
        ("| `A b` | t | r | h | w | `test_a` |", Some("no id: `A b`")),
        ("| `a` | t | r | h | w | by hand |", Some("not a list of names: by hand")),
    ] {
        let (rows, found) = parse(&format!("{head}{row}\n"));
        assert_eq!(
            found.first().map(String::as_str),
            wrong.map(|wrong| format!("line 3: {wrong}")).as_deref()
        );
        assert_eq!(rows.len(), usize::from(wrong.is_none()), "{row}");
    }
    assert_eq!(parse("| topic | here |\n").1.len(), 1);
    let source = "#[test]\nfn one() {\n    fn inner() {}\n}\n#[tokio::test(start_paused = true)]\nasync fn two() {\n\
                  def test_three(self):\nfn no_test() {\n";
    assert_eq!(tests_in(source).collect::<Vec<_>>(), ["one", "two", "test_three"]);
}
