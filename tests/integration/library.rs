//! The handler library that tests load, built once.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The library of `tests/handlers/rust`.
pub fn rust_library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/handlers/rust/Cargo.toml");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("handlers");
        let mut command = Command::new(env!("CARGO"));
        command.args(["build", "--release", "--quiet", "--manifest-path"]).arg(manifest);
        let output = command.arg("--target-dir").arg(&target).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        target.join("release/libtest_handler.so")
    })
}
