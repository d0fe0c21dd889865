"""The pytest plugin: fixtures `nuclio` (also `nuclio_module`, `nuclio_session`) and `processor`.

    def test_greets(nuclio):
        call = nuclio.handler("main.py:handler")
        assert call(path="/?name=Ada").text == "Hello, Ada"

    def test_serves(processor):
        assert processor("main.py:handler", workers=2).get("/?name=Ada").status == 200
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Callable, Optional, Protocol, Union

import pytest

from .answers import Records
from .processor import Processor, ProcessorMissing
from .worker import Worker

SECTIONS = pytest.StashKey[list[tuple[str, str]]]()
REQUIRED = "nuclio_processor_required"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(REQUIRED, "Tests that need the processor fail where there is none, instead of being skipped.",
                  type="bool", default=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    sections = item.config.stash.get(SECTIONS, [])
    if call.when == "teardown":
        # What was logged last is of this test; later ones begin anew.
        item.config.stash[SECTIONS] = []
    if report.failed:
        report.sections.extend(sections)
    return report


class Serve(Protocol):
    """What the fixture `processor` is."""

    def __call__(self, handler: Optional[str] = None, **options: Any) -> Processor: ...


class Nuclio:
    """Makes workers and processors, and ends them with the fixture."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self._open: list[Union[Worker, Processor]] = []
        config = request.config
        start = os.path.dirname(str(getattr(request, "path", None) or config.rootpath))
        root, folder = str(config.rootpath), start
        self._folders = [start]
        while folder != root and folder.startswith(root) and os.path.dirname(folder) != folder:
            folder = os.path.dirname(folder)
            self._folders.append(folder)
        self._folders += [folder for folder in (root, os.getcwd()) if folder not in self._folders]

    def handler(self, handler: Union[str, Callable[..., Any]], **options: Any) -> Worker:
        """A handler to call, `file.py:function`, looked for from the test's folder upwards, or the function itself.

        `init_context` beside it has run. Options: `trigger` (kind, name) of the worker, `worker_id`, `platform`,
        `namespace`; `init_context=False`; `fresh=True` imports the module anew.
        """
        __tracebackhide__ = True
        worker = Worker(handler, self._folders, listener=self._tell, **options)
        self._open.append(worker)
        return worker

    def processor(self, handler: Optional[str] = None, **options: Any) -> Processor:
        """A real processor that serves the handler, ready.

        Options: `config` (a function.yaml, or a dict), `workers`, `runtime_attributes`, `trigger` and `spec` (what is
        merged into the HTTP trigger and the spec), `platform` (into platform.yaml), `env`, `log_level`,
        `start_seconds`. Skips the test where there is no processor.
        """
        __tracebackhide__ = True
        try:
            processor = Processor(handler, self._folders, listener=self._tell, **options)
        except ProcessorMissing as error:
            if self._request.config.getini(REQUIRED):
                raise
            pytest.skip(str(error))
        self._open.append(processor)
        return processor

    def close(self) -> None:
        """Ends everything, also if something does not end well."""
        __tracebackhide__ = True
        errors = []
        while self._open:
            try:
                self._open.pop().close()
            except BaseException as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _tell(self, title: str, logs: Records) -> None:
        """Shown with a test that fails."""
        sections = self._request.config.stash.setdefault(SECTIONS, [])
        sections.append((title, str(logs)))


def _made(request: pytest.FixtureRequest) -> Iterator[Nuclio]:
    __tracebackhide__ = True
    made = Nuclio(request)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def nuclio(request: pytest.FixtureRequest) -> Iterator[Nuclio]:
    """Calls handlers, `nuclio.handler("main.py:handler")`, and starts processors, for one test."""
    yield from _made(request)


@pytest.fixture(scope="module")
def nuclio_module(request: pytest.FixtureRequest) -> Iterator[Nuclio]:
    """As `nuclio`, for all tests of a module."""
    yield from _made(request)


@pytest.fixture(scope="session")
def nuclio_session(request: pytest.FixtureRequest) -> Iterator[Nuclio]:
    """As `nuclio`, for all tests; paths are relative to the root folder."""
    yield from _made(request)


@pytest.fixture
def processor(nuclio: Nuclio) -> Serve:
    """Starts a real processor with a handler: `processor("main.py:handler", workers=2)`."""
    return nuclio.processor
