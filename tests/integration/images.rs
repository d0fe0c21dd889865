//! The requirements on images in `docs/images.md`: all of them are there, with tests that exist. And what of the
//! blueprints can be seen without an engine.

use std::collections::BTreeSet;
use std::path::Path;

use crate::compatibility::{cells, known, words};

/// Groups of requirements, and how many each has.
const GROUPS: [(&str, usize); 7] =
    [("IMG", 14), ("PRB", 6), ("PID", 5), ("NUC", 9), ("LOG", 3), ("K8S", 6), ("LIBC", 3)];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_requirement_on_images_names_where_it_is_held_and_tests_that_exist() {
    let text = std::fs::read_to_string(root().join("docs/images.md")).unwrap();
    let (_, table) = text.split_once("\n## Requirements\n").unwrap();
    let (known, mut seen, mut wrong) = (known(), BTreeSet::new(), Vec::new());
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cells = cells(row);
        let [id, requirement, held, shown] = cells.as_slice() else {
            wrong.push(format!("not four cells: {row}"));
            continue;
        };
        if requirement.is_empty() || !seen.insert(id.trim_matches('`').to_owned()) {
            wrong.push(format!("{id}: empty, or there twice"));
        }
        for name in words(shown).unwrap_or_default().iter().filter(|name| !known.contains(*name)) {
            wrong.push(format!("{id}: there is no test {name}"));
        }
        if words(shown).is_err() {
            wrong.push(format!("{id}: no list of tests: {shown}"));
        }
        for path in held.split('`').skip(1).step_by(2) {
            let paths = [path.to_owned(), format!("src/{path}"), format!("src/{path}.rs")];
            if !paths.iter().any(|path| root().join(path).exists()) {
                wrong.push(format!("{id}: there is no {path}"));
            }
        }
        if held.is_empty() {
            wrong.push(format!("{id}: held nowhere"));
        }
    }
    let all: BTreeSet<String> =
        GROUPS.iter().flat_map(|(group, count)| (1..=*count).map(move |n| format!("{group}-{n}"))).collect();
    wrong.extend(all.symmetric_difference(&seen).map(|id| format!("{id}: missing, or not known")));
    assert!(wrong.is_empty(), "docs/images.md:\n{}", wrong.join("\n"));
}

/// `nuctl` crashes on an image without one.
#[test]
fn every_blueprint_has_a_health_check() {
    let short = "HEALTHCHECK --interval=1s --timeout=3s";
    let probe = "CMD /usr/local/bin/uhttpc --url http://127.0.0.1:8082/ready || exit 1";
    let exec = r#"CMD ["/usr/local/bin/uhttpc", "--url", "http://127.0.0.1:8082/ready"]"#;
    let mut found = 0;
    for folder in std::fs::read_dir(root().join("examples/docker")).unwrap().flatten() {
        let Ok(files) = std::fs::read_dir(folder.path()) else { continue };
        for file in
            files.flatten().filter(|file| file.file_name().to_string_lossy().starts_with("Dockerfile"))
        {
            let text = std::fs::read_to_string(file.path()).unwrap();
            // The original line where the handler starts at once; the others may take their time.
            let expected = match (folder.file_name() == "golang", file.file_name() == "Dockerfile") {
                (true, true) => format!("{short} {probe}"),
                (true, false) => format!("{short} --start-period=60s {exec}"),
                (false, _) => format!("{short} --start-period=60s {probe}"),
            };
            assert!(text.lines().any(|line| line == expected), "{}", file.path().display());
            assert!(text.ends_with("\nCMD [ \"processor\" ]\n"), "{}", file.path().display());
            found += 1;
        }
    }
    assert_eq!(found, 8);
}
