"""Tests of the package as it is installed, with the plugin in the pytest that runs them."""

import os

import pytest

os.environ.pop("PYTEST_ADDOPTS", None)


@pytest.fixture
def source(tmp_path):
    """Writes a handler beside nothing else and gives its name for `nuclio.handler`."""
    def write(text, name="main.py", handler="handler"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return "%s:%s" % (path, handler)

    return write


@pytest.fixture
def project(pytester, monkeypatch):
    """A user's project, whose tests are run by a pytest of their own."""
    def write(**files):
        for name, text in files.items():
            path = pytester.path / name.replace("__", "/").replace("_yaml", ".yaml")
            path = path if path.suffix else path.with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return pytester

    return write
