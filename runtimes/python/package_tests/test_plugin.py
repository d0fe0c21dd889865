"""The plugin in a pytest of its own, as users run it."""

import os
import signal
import subprocess
import sys
import time

import pytest

PROCESSOR = os.environ.get("NUCLIO_PROCESSOR")
needs_processor = pytest.mark.skipif(PROCESSOR is None, reason="NUCLIO_PROCESSOR is not set")
GREETING = '''
def handler(context, event):
    context.logger.info_with("greets", name=event.fields.get("name"))
    return "Hello, " + event.fields["name"]
'''


def run(pytester, *arguments):
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:asyncio", *arguments, timeout=120)


def test_a_project(project):
    """Paths are looked for from the test's folder upwards; fixtures of wider scopes keep their workers."""
    result = run(project(main=GREETING, function__other="def handler(context, event):\n    return 'other'\n",
                         tests__test_it='''
import pytest

@pytest.fixture(scope="module")
def call(nuclio_module):
    return nuclio_module.handler("main.py:handler")

def test_greets(call):
    assert call(path="/?name=Ada").text == "Hello, Ada"

def test_counts(call):
    assert len(call.logs) == 1

def test_other(nuclio, nuclio_session):
    assert nuclio.handler("function/other.py:handler")().text == "other"
    assert nuclio_session.handler("function/other")().text == "other"
'''), "-W", "error")
    result.assert_outcomes(passed=3)


def test_logs_are_shown_with_what_fails_and_only_there(project):
    result = run(project(main=GREETING, test_it='''
def test_good(nuclio):
    assert nuclio.handler("main.py")(path="/?name=Good").ok

def test_bad(nuclio):
    answer = nuclio.handler("main.py")(path="/?nobody=1")
    assert answer.ok

def test_raised(nuclio):
    nuclio.handler("main.py")(path="/").raise_for_error()
'''))
    result.assert_outcomes(passed=1, failed=2)
    text = result.stdout.str()
    assert "name='Good'" not in text
    assert "info  greets name=None" in text and "KeyError: 'name'" in text
    result.stdout.fnmatch_lines(["*main.py:4: KeyError"])
    assert "_nuclio_wrapper.py:" not in text


@pytest.mark.parametrize("broken, shown", [
    ("import helper\n", ['*return 1 / 0*', "E *ZeroDivisionError: division by zero", "*helper.py:2: ZeroDivisionError"]),
    ("def handler(:\n", ["E *main.py*", "E *SyntaxError*"]),
    ("import surely_not_there\n", ["*import surely_not_there*", "E *ModuleNotFoundError*surely_not_there*"])])
def test_an_import_that_fails_shows_the_users_traceback(project, broken, shown):
    result = run(project(main=broken + "def handler(context, event): pass\n", helper="def fails():\n    return 1 / 0\nfails()\n",
                         test_it="def test_it(nuclio):\n    nuclio.handler('main.py:handler')\n"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(shown)
    assert "_nuclio_wrapper.py:" not in result.stdout.str() and "worker.py:" not in result.stdout.str()


def test_init_context_that_fails(project):
    result = run(project(main="def init_context(context):\n    raise OSError('no model')\ndef handler(context, event): pass\n",
                         test_it="def test_it(nuclio):\n    nuclio.handler('main.py:handler')\n"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*main.py:2: OSError"])


def test_without_a_processor_tests_are_skipped_or_fail(project, monkeypatch):
    monkeypatch.delenv("NUCLIO_PROCESSOR", raising=False)
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    pytester = project(main=GREETING, test_it="def test_it(processor):\n    processor('main.py:handler')\n")
    result = run(pytester, "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*no processor: set NUCLIO_PROCESSOR to its path*"])
    run(pytester, "-o", "nuclio_processor_required=true").assert_outcomes(failed=1)
    monkeypatch.setenv("NUCLIO_PROCESSOR", "/nowhere/processor")
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*NUCLIO_PROCESSOR names /nowhere/processor*"])


SERVED = '''
import pytest

@pytest.mark.parametrize("number", range(4))
def test_it(processor, nuclio, number):
    served = processor("main.py:handler")
    assert served.get("/?name=%d" % number).text == "Hello, %d" % number
    assert nuclio.handler("main.py:handler")(path="/?name=x").text == "Hello, x"
'''


@needs_processor
def test_with_xdist(project):
    pytest.importorskip("xdist")
    run(project(main=GREETING, test_it=SERVED), "-n", "3").assert_outcomes(passed=4)


def alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid):
    found = []
    for entry in os.listdir("/proc"):
        try:
            with open("/proc/%s/stat" % entry) as file:
                if entry.isdigit() and int(file.read().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(entry))
        except OSError:
            continue
    return found


@needs_processor
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_when_pytest_is_killed(project, number):
    pytester = project(main=GREETING, test_it='''
import time

def test_it(processor):
    served = processor("main.py:handler")
    with open("pid.tmp", "w") as file:
        file.write(str(served.pid))
    import os
    os.rename("pid.tmp", "pid")
    time.sleep(100)
''')
    process = subprocess.Popen([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:asyncio"], cwd=pytester.path,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: (pytester.path / "pid").exists())
        pid = int((pytester.path / "pid").read_text())
        family = [pid, *children(pid)]
        assert len(family) > 1 and all(map(alive, family))
        process.send_signal(number)
        wait_until(lambda: not any(map(alive, family)))
    finally:
        process.kill()
        process.wait()


def wait_until(done, seconds=60):
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, "not within %d s" % seconds
        time.sleep(0.02)


@needs_processor
def test_a_crash_is_reported_with_its_log(project):
    pytester = project(main=GREETING, test_it='''
import os, signal

def test_between_requests(processor):
    served = processor("main.py:handler")
    served.get("/?name=Last")
    served.wait_for_log("greets")
    os.kill(served.pid, signal.SIGKILL)
    served.get("/")

def test_unnoticed(processor):
    served = processor("main.py:handler")
    os.kill(served.pid, signal.SIGKILL)
    os.waitid(os.P_PID, served.pid, os.WEXITED | os.WNOWAIT)
''')
    result = run(pytester)
    # The first fails where it finds out, the other when it is cleaned up.
    result.assert_outcomes(failed=1, passed=1, errors=1)
    result.stdout.fnmatch_lines(["*the processor ended while it was used: ended by SIGKILL*"])
    result.stdout.fnmatch_lines(["*the processor has ended*ended by SIGKILL*", "*greets*Last*"])


@needs_processor
def test_a_start_that_fails_shows_the_users_traceback(project):
    pytester = project(main="import helper\n" + GREETING, helper="def fails():\n    return 1 / 0\nfails()\n",
                       test_it="def test_it(processor):\n    processor('main.py:handler')\n")
    result = run(pytester)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ProcessorError: the processor has not started: exit code 1*", "*helper.py*line 2, in fails*",
                                 "*ZeroDivisionError: division by zero*"])
