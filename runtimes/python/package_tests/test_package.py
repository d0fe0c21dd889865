"""The package as it is built and found."""

import os
import subprocess
import sys
import tarfile
import zipfile

import pytest

import nuclio_handler
from nuclio_handler import _shim

SOURCES = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run(*arguments, **options):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_a_wheel_made_from_the_sdist_has(tmp_path):
    pytest.importorskip("hatchling")
    run("-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path), cwd=SOURCES)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (tree,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    run("-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path), cwd=tree)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
        parts = [name for name in os.listdir(SOURCES) if name.startswith("_nuclio_") and name.endswith(".py")]
        for part in parts:
            with open(os.path.join(SOURCES, part), "rb") as file:
                assert opened.read("nuclio_handler/_carried/" + part) == file.read()
        (metadata,) = [name for name in names if name.endswith("/METADATA")]
        required = [line for line in opened.read(metadata).decode().splitlines() if line.startswith("Requires-Dist")]
    sources = {"nuclio_handler/" + name for name in os.listdir(os.path.join(SOURCES, "nuclio_handler"))
               if name.endswith((".py", ".pyi", ".typed", ".md"))}
    assert "_nuclio_wrapper.py" in parts
    assert sources | {"nuclio_handler/_carried/" + part for part in parts} == {
        name for name in names if name.startswith("nuclio_handler/")}
    assert required and all("extra ==" in line for line in required)


def test_in_a_checkout_the_shim_is_the_one_beside_it():
    code = "from nuclio_handler import _shim, Event; print(_shim.path()); print(Event(body=b'x').body)"
    environment = {**os.environ, "PYTHONPATH": SOURCES}
    path, body = run("-B", "-P" if sys.version_info >= (3, 11) else "-B", "-c", code, env=environment).split()
    assert path == os.path.join(SOURCES, "_nuclio_wrapper.py") and body == "b'x'"


def test_importing_it_costs_nothing():
    code = ("import sys; import nuclio_handler; "
            "print(*[name for name in ('asyncio', 'pytest', 'json', '_nuclio_wrapper', 'http.client') if name in sys.modules])")
    assert run("-c", code).strip() == ""


def test_names():
    for name in nuclio_handler.__all__:
        assert getattr(nuclio_handler, name) is not None and name in dir(nuclio_handler)
    with pytest.raises(AttributeError, match="no attribute 'Evnt'"):
        nuclio_handler.Evnt  # noqa: B018
    with pytest.raises(ImportError, match="has no NotThere"):
        _shim.name("NotThere")
