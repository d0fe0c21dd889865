"""Handlers that do what none should: their events are answered once all the same. See `test_wrapper`."""

import unittest

from test_several import several
from test_wrapper import CANCEL, DATA, Shim, event, frame

BAD_TEXT = "class Bad(Exception):\n    def __str__(self): raise SystemExit('no text')\n"


def both(source, **more):
    """The same handler with one event at a time, and with several."""
    return (Shim(source, **more), several(source, **more))


class Answered(unittest.TestCase):
    def test_exceptions_whose_text_ends_the_process(self):
        source = BAD_TEXT + "async def handler(c, e):\n    if e.body == b'x': raise Bad()\n    return 'fine'\n"
        for shim in both(source):
            with shim:
                answer = shim.call(body=b"x")
                self.assertEqual(answer.status, 500)
                self.assertIn(b'Exception caught in handler - "Bad"', answer.body)
                self.assertEqual(shim.call(2, body=b"y").body, b"fine")

    def test_failures_that_cannot_be_answered_end_the_process_instead_of_leaving_an_event_unanswered(self):
        source = ("def init_context(c):\n    def fail(*_): raise MemoryError('no room')\n    type(c.logger)._log = fail\n"
                  "async def handler(c, e): raise ValueError('x')\n")
        for shim in both(source):
            with shim:
                shim.send(event())
                with self.assertRaises(EOFError):
                    shim.answer()
                self.assertEqual(shim.process.wait(5), 1)
                self.assertIn("no room", shim.errors())

    def test_generators_whose_cleanup_ends_the_process(self):
        body = "try:\n            while True: yield 'x' * 1000\n        finally: raise SystemExit('in finally')\n"
        handler = "async def handler(c, e):\n    %sdef pieces():\n        " + body + "    return pieces()\n"
        for source in (handler % "", handler % "async "):
            for shim in both(source, credit=100):
                with shim, self.subTest(source):
                    shim.send(event())
                    shim.answer()
                    shim.next()
                    shim.send(frame(CANCEL, 0, 1, 1))
                    kind, flags = shim.next()[:2]
                    while (kind, flags) == (DATA, 0):
                        kind, flags = shim.next()[:2]
                    self.assertEqual((kind, flags), (DATA, 2))
                    shim.send(event(2))  # which is the next that is heard of
                    self.assertEqual(shim.answer().ident, 2)
                    self.assertIn(("warn", "Exception caught while closing a generator"),
                                  [record[:2] for record in shim.logs])


class GoesOn(unittest.TestCase):
    CANCELS = ("import asyncio\nasync def handler(c, e):\n    exec(e.body.decode())\n    await asyncio.sleep(0.01)\n"
               "    return 'fine'\n")

    def test_handlers_that_cancel_all_tasks(self):
        everybody = b"[task.cancel() for task in asyncio.all_tasks() if task is not asyncio.current_task()]"
        for shim in both(self.CANCELS):
            with shim:
                for ident in (1, 2):
                    self.assertEqual(shim.call(ident, body=everybody).body, b"fine")

    def test_handlers_that_cancel_the_task_they_run_in(self):
        at_once = self.CANCELS.replace("    await", "    if b'cancel' not in e.body: await")
        for source in (self.CANCELS, at_once):
            for shim in both(source):
                with shim:
                    shim.send(event(1, body=b"asyncio.current_task().cancel()") + event(2, body=b"pass"))
                    answers = {answer.ident: answer for answer in (shim.answer(), shim.answer())}
                    self.assertEqual(answers[2].body, b"fine")
                    self.assertEqual(shim.call(3, body=b"pass").body, b"fine")

    def test_handlers_that_stop_the_loop(self):
        for shim in both(self.CANCELS):
            with shim:
                for ident in (1, 2):
                    answer = shim.call(ident, body=b"asyncio.get_running_loop().stop()")
                    self.assertEqual(answer.body, b"fine")
                self.assertIn("Exception caught in task", [record[1] for record in shim.logs])


if __name__ == "__main__":
    unittest.main()
