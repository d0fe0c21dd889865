"""An MLRun serving graph of two steps, a preparation and a model, run without MLRun's own service.

The end of this file is what MLRun puts behind the user's code: the graph comes in `SERVING_SPEC_ENV`, its hook makes
the server and sets `context.mlrun_handler`.
"""

import asyncio
import inspect
import os

import mlrun
from mlrun.runtimes import nuclio_init_hook
from mlrun.serving import V2ModelServer


class Prepare:
    """A step: lists of texts become lists of lengths."""

    def do(self, body):
        return {"inputs": [len(text) for text in body["texts"]]}


class Doubles(V2ModelServer):
    """A model that needs no file."""

    def load(self):
        self.model = 2

    def predict(self, request):
        return [self.model * value for value in request["inputs"]]


def serving_spec():
    """What MLRun writes into the function's environment when it deploys the graph."""
    function = mlrun.new_function("texts", kind="serving", project="example")
    graph = function.set_topology("flow", engine="sync")
    step = graph.to("Prepare", name="prepare").to("Doubles", name="model")
    step.respond()
    return function.serving_spec


def init_context(context):
    if "SERVING_SPEC_ENV" not in os.environ:
        os.environ["SERVING_SPEC_ENV"] = serving_spec()
    nuclio_init_hook(context, globals(), "serving_v2")


async def handler(context, event):
    result = context.mlrun_handler(context, event)
    if asyncio.iscoroutine(result):
        return await result
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        return context.Response(body=result)
    return result
