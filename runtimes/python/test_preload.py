"""Tests of the process that workers are forked from: a scripted processor asks it for them.

The processor here is this test, so it becomes the parent of orphans, as the real one does.
"""

import ctypes
import json
import os
import select
import signal
import socket
import struct
import time
import unittest

import test_wrapper
from test_wrapper import HELLO, READY, pairs

CHILD_SUBREAPER = 36
TELLS = """
import json, os, random, sys
IMPORTED_BY = os.getpid()
VALUE = [0]
def init_context(context):
    context.user_data.init = os.getpid()
def handler(context, event):
    VALUE[0] += 1
    if event.path == "/exit":
        os._exit(7)
    sys.stderr.write("said\\n")
    return json.dumps([IMPORTED_BY, os.getpid(), os.getppid(), os.getpgid(0), context.user_data.init, VALUE[0],
                       context.worker_id, random.random()])
"""


class Worker(test_wrapper.Shim):
    """A worker that was forked: the processor's ends of what was sent along."""

    def __init__(self, server, worker_id="0", settings=None, start=True):
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(10)
        self.words, words = os.pipe()
        self.birth, birth = socket.socketpair()
        self.birth.settimeout(10)
        descriptors = [theirs.fileno(), words, birth.fileno()]
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("3i", *descriptors))
        server.sock.sendmsg([b"f"], [rights])
        theirs.close()
        os.close(words)
        birth.close()
        self.pid = int(self.birth.recv(100))
        self.data, self.logs, self.acks, self.pipe, self.apart = b"", [], [], None, 0
        if start:
            self.birth.send(b"!")
            self.begin({**server.settings, "preload": "0", "worker_id": worker_id, **(settings or {})})

    def begin(self, settings):
        assert self.read(4) == b"NSH2"
        kind, _, _, _, head, _ = self.frame()
        assert kind == HELLO
        self.hello = dict(pairs(head))
        self.send_init(settings, True)
        kind, _, _, _, head, body = self.next()
        assert kind == READY, (kind, body)
        self.ready = dict(pairs(head))

    def errors(self):
        """What there is on its standard error."""
        return os.read(self.words, 1 << 16).decode() if select.select([self.words], [], [], 0)[0] else ""

    def finish(self):
        """Its status, once it has ended because its socket did."""
        self.sock.close()
        if self.pipe is not None:
            os.close(self.pipe)
        return os.waitpid(self.pid, 0)[1]

    def close(self):
        self.sock.close()
        self.birth.close()
        os.close(self.words)


class Preload(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        try:
            done = ctypes.CDLL(None).prctl(CHILD_SUBREAPER, 1, 0, 0, 0)
        except (AttributeError, OSError):
            done = -1
        if done != 0:
            raise unittest.SkipTest("the kernel does not make this process the parent of orphans")

    def server(self, source=TELLS, **settings):
        shim = test_wrapper.Shim(source, settings={"preload": "1", **settings})
        self.addCleanup(shim.__exit__)
        return shim

    def worker(self, server, *args, **kwargs):
        worker = Worker(server, *args, **kwargs)
        self.addCleanup(worker.close)
        return worker

    def test_workers_are_forked_children_of_the_processor_with_one_import(self):
        server = self.server()
        self.assertIn("preload", server.hello["capabilities"].split(","))
        workers = [self.worker(server, str(number)) for number in range(3)]
        said = [json.loads(worker.call().body) for worker in workers]
        self.assertEqual({one[0] for one in said}, {server.process.pid})
        for number, (worker, one) in enumerate(zip(workers, said)):
            self.assertEqual(one[1:7], [worker.pid, os.getpid(), worker.pid, worker.pid, 1, str(number)])
            self.assertEqual(worker.hello["pid"], str(worker.pid))
            self.assertEqual(worker.errors(), "said\n")
        self.assertEqual(len({one[7] for one in said}), 3, "each has random numbers of its own")
        self.assertEqual([worker.finish() for worker in workers], [0, 0, 0])
        self.assertEqual(server.finish(), 0)

    def test_the_status_of_a_worker_is_the_processors_to_read(self):
        server = self.server()
        worker = self.worker(server)
        worker.send(test_wrapper.event(path="/exit"))
        self.assertEqual(os.WEXITSTATUS(os.waitpid(worker.pid, 0)[1]), 7)
        worker = self.worker(server)
        os.kill(worker.pid, signal.SIGKILL)
        self.assertEqual(os.WTERMSIG(os.waitpid(worker.pid, 0)[1]), signal.SIGKILL)

    def test_workers_outlive_the_process_they_were_forked_from(self):
        server = self.server()
        worker = self.worker(server)
        server.process.kill()
        server.process.wait()
        self.assertEqual(worker.call().status, 200)
        self.assertEqual(worker.finish(), 0)

    def test_a_worker_that_nobody_takes_over_ends(self):
        worker = self.worker(self.server(), start=False)
        worker.sock.close()
        worker.birth.close()
        deadline = time.monotonic() + 30
        while True:
            try:
                self.assertEqual(os.waitpid(worker.pid, 0)[1], 0)
                return
            except ChildProcessError:  # it is not ours yet
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.01)

    def test_what_the_import_leaves_is_named_before_it_is_ready(self):
        server = self.server("""
import socket, threading, time
pair = socket.socketpair()
threading.Thread(target=time.sleep, args=(60,), name="poller", daemon=True).start()
def handler(context, event): return "fine"
""")
        texts = [text for level, text, _, _ in server.logs if level == "warn"]
        self.assertTrue(any("poller" in text for text in texts), texts)
        self.assertTrue(any("opened 2 socket(s)" in text for text in texts), texts)
        self.assertEqual(self.worker(server).call().body, b"fine")

    def test_a_loop_made_by_the_import_is_not_shared(self):
        server = self.server("""
import asyncio, os
asyncio.set_event_loop(asyncio.new_event_loop())
async def handler(context, event):
    await asyncio.sleep(0.001)
    return str(os.getpid())
""")
        self.assertTrue(any("event loop" in text for _, text, _, _ in server.logs), server.logs)
        workers = [self.worker(server) for _ in range(3)]
        for _ in range(20):
            for worker in workers:
                self.assertEqual(worker.call().body, str(worker.pid).encode())

    def test_numpys_generator_is_seeded_anew(self):
        fake = "import os\ncalls = []\ndef seed(): calls.append(os.getpid())\n"
        source = "import numpy.random, os\ndef handler(context, event): return str(numpy.random.calls == [os.getpid()])\n"
        files = {"numpy/__init__.py": "", "numpy/random.py": fake}
        shim = test_wrapper.Shim(source, files=files, settings={"preload": "1"})
        self.addCleanup(shim.__exit__)
        self.assertEqual(self.worker(shim).call().body, b"True")

    def test_the_sdks_answer_is_the_contexts_as_without_preload(self):
        source = ("import nuclio_sdk\ndef handler(context, event):\n"
                  "    return str(context.Response is nuclio_sdk.Response) + str(isinstance(event, nuclio_sdk.Event))\n")
        plain = test_wrapper.Shim(source)
        self.addCleanup(plain.__exit__)
        self.assertEqual(self.worker(self.server(source)).call().body, plain.call().body)

    def test_an_import_that_ignores_its_children_can_be_forked(self):
        server = self.server("import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
                             "def handler(context, event): return 'fine'\n")
        self.assertEqual([self.worker(server).call().body for _ in range(2)], [b"fine"] * 2)

    def test_objects_of_the_import_are_frozen(self):
        server = self.server("import gc\ndef handler(context, event): return str(gc.get_freeze_count() > 1000)\n")
        self.assertEqual(self.worker(server).call().body, b"True")

    def test_a_fork_that_fails_is_told_and_the_next_one_may_work(self):
        server = self.server("""
import os
fork, failed = os.fork, []
def once():
    if not failed:
        failed.append(1)
        raise OSError(11, "no more")
    return fork()
os.fork = once
def handler(context, event): return "fine"
""")
        with self.assertRaisesRegex(ValueError, "no more"):
            Worker(server)
        self.assertEqual(self.worker(server).call().body, b"fine")


if __name__ == "__main__":
    unittest.main()
