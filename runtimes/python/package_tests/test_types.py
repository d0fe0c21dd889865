"""What type checkers say of handlers: nothing of right ones, something of each wrong line."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
GOOD, BAD = os.path.join(HERE, "samples_good.py"), os.path.join(HERE, "samples_bad.py")
# Checkers are in an environment of their own in scripts/test; the package is found in that of the tests.
TOOLS = os.environ.get("TYPE_CHECKERS") or sys.executable
with open(BAD, encoding="utf-8") as opened:
    WRONG = {("samples_bad.py", number) for number, line in enumerate(opened, 1) if line.rstrip().endswith("  # wrong")}


def tool(name):
    """A program beside the interpreter with the checkers, or in PATH."""
    found = shutil.which(name, path=os.path.dirname(TOOLS)) or shutil.which(name)
    if found is None:
        pytest.skip("%s is not installed" % name)
    return found


def test_mypy(tmp_path):
    done = subprocess.run([tool("mypy"), "--strict", "--python-executable", sys.executable, "--config-file", os.devnull,
                           "--cache-dir", str(tmp_path / "cache"), GOOD, BAD], cwd=tmp_path, capture_output=True,
                          text=True, timeout=300)
    found = re.findall(r"(samples_\w+\.py):(\d+): error", done.stdout)
    assert {(file, int(line)) for file, line in found} == WRONG, done.stdout + done.stderr


def test_pyright(tmp_path):
    """Strict, but for what it says of values that come out of JSON."""
    for file in (GOOD, BAD):
        shutil.copy(file, tmp_path)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({
        "typeCheckingMode": "strict", "reportUnusedExpression": False, "reportUnusedCoroutine": False,
        "reportUnknownMemberType": False, "reportUnknownVariableType": False}))
    done = subprocess.run([tool("pyright"), "--pythonpath", sys.executable, "--outputjson", "-p", str(tmp_path)],
                          cwd=tmp_path, capture_output=True, text=True, timeout=500)
    try:
        report = json.loads(done.stdout[done.stdout.index("{"):])
    except ValueError:
        # The package from PyPI fetches the program itself.
        pytest.skip("pyright cannot be had: %s" % (done.stderr or done.stdout)[-300:])
    assert report["summary"]["filesAnalyzed"] == 2
    found = [(os.path.basename(one["file"]), one["range"]["start"]["line"] + 1, one["message"])
             for one in report["generalDiagnostics"]]
    assert {one[:2] for one in found} == WRONG, found


def test_declared_signatures_are_those_of_the_shim(tmp_path):
    """stubtest: names, parameters and defaults, in both directions; not what exists for type checkers only."""
    tool("stubtest")
    allowed = tmp_path / "allowed"
    allowed.write_text("\n".join([
        # Aliases and protocols: at run time anything.
        r"nuclio_handler\.(Batch|BatchHandler|BatchResult|Body|Handler|InitContext|Result|Results)(\..*)?",
        # At run time an Event.
        r"nuclio_handler\.StreamEvent(\..*)?",
        # Of the shim: not meant for handlers.
        r"nuclio_handler\.RequestBody\.(__init__|came|credit|next_piece|next_piece_async|take|waits)",
        r"nuclio_handler\.Logger\.__init__",
        # What is not a stub is compared with itself.
        r"nuclio_handler\.(_carried|worker)\..*",
    ]))
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\ncheck_untyped_defs = true\n[mypy-nuclio_handler._carried.*]\nignore_errors = true\n")
    done = subprocess.run([tool("stubtest"), "nuclio_handler", "--concise", "--ignore-unused-allowlist", "--allowlist",
                           str(allowed), "--mypy-config-file", str(config)], cwd=tmp_path, capture_output=True, text=True,
                          timeout=300, env={**os.environ, "PYTHONPATH": package_folder()})
    assert done.returncode == 0, done.stdout + done.stderr


def package_folder():
    return os.path.dirname(os.path.dirname(importlib.util.find_spec("nuclio_handler").origin))
