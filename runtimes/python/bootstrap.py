"""Starts the shim embedded in the processor, compiling it once for all workers.

Compiling the shim costs as much time as starting the interpreter, and memory that is never given back. So it is done
in a forked child, which leaves the code in descriptor 6 for everybody; descriptor 5 has the source.
"""
import marshal
import posix
import sys

SOURCE, CODE = "/proc/self/fd/5", "/proc/self/fd/6"
TAG = ("%s %x\n" % (sys.implementation.cache_tag, sys.hexversion)).encode()


def read(path):
    with open(path, "rb", 0) as file:
        return file.read()


def compile_shim():
    import fcntl
    with open(CODE, "r+b", 0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # workers start side by side
        if not file.read(len(TAG)) == TAG:
            code = marshal.dumps(compile(read(SOURCE), "<nuclio shim>", "exec"))
            # The tag comes last: who reads it, without the lock, reads the whole code behind it.
            file.seek(len(TAG))
            file.write(code)
            file.seek(0)
            file.write(TAG)


def load():
    data = read(CODE)
    if not data.startswith(TAG):
        try:
            child = posix.fork()
        except OSError:  # there may be no more processes: compiled here then, as below
            child = -1
        if child == 0:
            try:
                compile_shim()
            finally:
                posix._exit(0)
        if child > 0:
            posix.waitpid(child, 0)
            data = read(CODE)
    if data.startswith(TAG):
        try:
            return marshal.loads(memoryview(data)[len(TAG):])
        except Exception:
            pass  # cut short: its writer was killed, or found no room
    return compile(read(SOURCE), "<nuclio shim>", "exec")


code = load()
posix.close(5)
posix.close(6)
# Whoever starts Python anew, as multiprocessing does, must not look for this file there.
del marshal, posix, SOURCE, CODE, TAG, read, compile_shim, load, __file__
exec(code)
