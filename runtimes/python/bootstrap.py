"""Starts the shim embedded in the processor, whose code one process compiles for all workers.

Compiling the shim costs more time than starting the interpreter, and memory that is never given back. So the processor
starts this file once more beside its first workers, with the argument `compile`. Descriptor 5 has the source, 6 that
of the part for web applications, 7 takes the code of both; the compiling process holds a lock on it until it ends,
however it ends. The second part stays packed, as `__web__`, for whoever needs it.
"""
import fcntl
import marshal
import posix
import sys

SOURCE, WEB_SOURCE, CODE = "/proc/self/fd/5", "/proc/self/fd/6", "/proc/self/fd/7"
TAG = ("%s %x\n" % (sys.implementation.cache_tag, sys.hexversion)).encode()


def compiled(path, name):
    with open(path, "rb", 0) as file:
        return compile(file.read(), name, "exec")


def both():
    return compiled(SOURCE, "<nuclio shim>"), marshal.dumps(compiled(WEB_SOURCE, "<nuclio web>"))


def write():
    with open(7, "r+b", 0) as file:
        file.write(TAG + marshal.dumps(both()))


def load():
    with open(CODE, "rb", 0) as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # until the compiling process has ended
        data = file.read()
    if data.startswith(TAG):
        try:
            code, web = marshal.loads(memoryview(data)[len(TAG):])
            return code, web
        except Exception:
            pass  # cut short: its writer was killed, or found no room
    return both()


if sys.argv[1:] == ["compile"]:
    write()
    posix._exit(0)
code, __web__ = load()
posix.close(5)
posix.close(6)
posix.close(7)
# Whoever starts Python anew, as multiprocessing does, must not look for this file there.
del fcntl, marshal, posix, SOURCE, WEB_SOURCE, CODE, TAG, compiled, both, write, load, __file__
exec(code)
