"""Starts the shim embedded in the processor, whose code one process compiles for all workers.

Compiling the shim costs more time than starting the interpreter, and memory that is never given back. So the processor
starts this file once more beside its first workers, with the argument `compile`. Descriptor 5 has the source, 6 that
of the part for web applications, 7 that of what workers are forked from, 8 takes the code of all; the compiling process
holds a lock on it until it ends, however it ends. The further parts stay packed, as `__web__` and `__preload__`, for
whoever needs them.
"""
import fcntl
import marshal
import posix
import sys

SOURCE, WEB_SOURCE, PRELOAD_SOURCE, CODE = ("/proc/self/fd/%d" % number for number in range(5, 9))
TAG = ("%s %x\n" % (sys.implementation.cache_tag, sys.hexversion)).encode()


def compiled(path, name):
    with open(path, "rb", 0) as file:
        return compile(file.read(), name, "exec")


def parts():
    return (compiled(SOURCE, "<nuclio shim>"), marshal.dumps(compiled(WEB_SOURCE, "<nuclio web>")),
            marshal.dumps(compiled(PRELOAD_SOURCE, "<nuclio preload>")))


def write():
    with open(8, "r+b", 0) as file:
        file.write(TAG + marshal.dumps(parts()))


def load():
    with open(CODE, "rb", 0) as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # until the compiling process has ended
        data = file.read()
    if data.startswith(TAG):
        try:
            code, web, preload = marshal.loads(memoryview(data)[len(TAG):])
            return code, web, preload
        except Exception:
            pass  # cut short: its writer was killed, or found no room
    return parts()


if sys.argv[1:] == ["compile"]:
    write()
    posix._exit(0)
code, __web__, __preload__ = load()
posix.close(5)
posix.close(6)
posix.close(7)
posix.close(8)
# Whoever starts Python anew, as multiprocessing does, must not look for this file there.
del (fcntl, marshal, posix, SOURCE, WEB_SOURCE, PRELOAD_SOURCE, CODE, TAG, compiled, parts, write, load,
     __file__)
exec(code)
