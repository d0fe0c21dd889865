"""Starts the shim embedded in the processor, whose code one process compiles for all workers.

Compiling the shim costs more time than starting the interpreter, and memory that is never given back. So the processor
starts this file once more beside its first workers, with the argument `compile`. Descriptor 5 has the source, 6 takes
the code; the compiling process holds a lock on it until it ends, however it ends.
"""
import fcntl
import marshal
import posix
import sys

SOURCE, CODE = "/proc/self/fd/5", "/proc/self/fd/6"
TAG = ("%s %x\n" % (sys.implementation.cache_tag, sys.hexversion)).encode()


def compiled():
    with open(SOURCE, "rb", 0) as file:
        return compile(file.read(), "<nuclio shim>", "exec")


def write():
    with open(6, "r+b", 0) as file:
        file.write(TAG + marshal.dumps(compiled()))


def load():
    with open(CODE, "rb", 0) as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # until the compiling process has ended
        data = file.read()
    if data.startswith(TAG):
        try:
            return marshal.loads(memoryview(data)[len(TAG):])
        except Exception:
            pass  # cut short: its writer was killed, or found no room
    return compiled()


if sys.argv[1:] == ["compile"]:
    write()
    posix._exit(0)
code = load()
posix.close(5)
posix.close(6)
# Whoever starts Python anew, as multiprocessing does, must not look for this file there.
del fcntl, marshal, posix, SOURCE, CODE, TAG, compiled, write, load, __file__
exec(code)
