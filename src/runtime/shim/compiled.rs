//! Code of the Python shim's core for those versions of Python that the build machine had: `runtimes/python/build.rs`.

use std::path::Path;

/// Names of versions, such as `cpython-311`, and what `bootstrap.py` wrote with them.
static CODES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/python_codes.rs"));

/// The code for an interpreter, which is told by the name of its file behind all links. Should that lie, the interpreter
/// finds that the code is not for it, and compiles.
pub(super) fn code_for(interpreter: &Path) -> Option<&'static [u8]> {
    let file = std::fs::canonicalize(interpreter).ok()?;
    let tag = tag(file.file_name()?.to_str()?)?;
    CODES.iter().find(|(version, _)| *version == tag).map(|(_, code)| *code)
}

/// `python3.11` → `cpython-311`.
fn tag(name: &str) -> Option<String> {
    let minor = name.strip_prefix("python3.").filter(|minor| !minor.is_empty())?;
    minor.bytes().all(|byte| byte.is_ascii_digit()).then(|| format!("cpython-3{minor}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_told_by_the_name_of_their_file() {
        assert_eq!(tag("python3.11").as_deref(), Some("cpython-311"));
        assert_eq!(tag("python3.9").as_deref(), Some("cpython-39"));
        for other in
            ["python3", "python", "python3.", "python3.13t", "python3.11-dbg", "pypy3.9", "python4.1"]
        {
            assert_eq!(tag(other), None, "{other}");
        }
    }

    #[test]
    fn a_link_leads_to_the_code_of_its_file_and_a_script_to_none() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("python3.11"), folder.path().join("python3"));
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(code_for(&link), code_for(&file));
        let script = folder.path().join("python");
        std::fs::write(&script, "").unwrap();
        assert_eq!((code_for(&script), code_for(&folder.path().join("missing"))), (None, None));
    }

    #[test]
    fn each_code_begins_with_its_version() {
        for (version, code) in CODES {
            assert!(code.starts_with(format!("{version} ").as_bytes()), "{version}");
            assert!(code.len() > 10_000, "{version} has {} bytes", code.len());
        }
    }
}
