"""Starts the shim embedded in the processor, whose core is compiled ahead where that can be.

The processor has the code for those versions of Python that it was built beside (`build.rs`). For another one a single
worker compiles the core; where there are several workers, the processor starts this file once more beside the first
of them, with the argument `compile`. Descriptor 5 has the source of the core, 7 has or takes its code; the compiling
process holds a lock on it until it ends, however it ends. 6 has the other parts, each behind its name: they stay
sources, as `__parts__`, until somebody needs them, and `__compiled__` compiles them.
"""
import marshal
import posix
import sys

import _frozen_importlib_external

SOURCE, PARTS, CODE = "/proc/self/fd/5", "/proc/self/fd/6", "/proc/self/fd/7"
# All releases of a version that have this number take the same code.
TAG = ("%s %s\n" % (sys.implementation.cache_tag, _frozen_importlib_external.MAGIC_NUMBER.hex())).encode()


def read(path):
    with open(path, "rb", 0) as file:
        return file.read()


def compiled(source, name):
    """In portions that end between two definitions: the compiler's memory is never given back, and touching it for the
    first time costs as much as the compiling."""
    codes, portion, line = [], b"", 0
    for text in source.split(b"\n\n\n"):
        portion += text + b"\n\n\n"
        if len(portion) - line > 8192:
            codes.append(compile(portion, name, "exec"))
            line = portion.count(b"\n")
            portion = b"\n" * line
    codes.append(compile(portion, name, "exec"))
    return codes


def core():
    return compiled(read(SOURCE), "<nuclio shim>")


def write():
    with open(7, "r+b", 0) as file:
        file.write(TAG + marshal.dumps(core()))


def load():
    import fcntl

    with open(CODE, "rb", 0) as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # until the compiling process has ended
        data = file.read()
    if data.startswith(TAG):
        try:
            return list(marshal.loads(memoryview(data)[len(TAG):]))
        except Exception:
            pass  # cut short: its writer was killed, or found no room
    return core()


def parts():
    texts = read(PARTS).split(b"\0")
    return dict(zip(map(bytes.decode, texts[1::2]), texts[2::2]))


if sys.argv[1:] == ["compile"]:
    write()
    posix._exit(0)
codes, __parts__, __compiled__ = load(), parts(), compiled
posix.close(5)
posix.close(6)
posix.close(7)
# Whoever starts Python anew, as multiprocessing does, must not look for this file there.
del (_frozen_importlib_external, marshal, posix, SOURCE, PARTS, CODE, TAG, read, compiled, core, write, load, parts,
     __file__)
while codes:
    exec(codes.pop(0))
