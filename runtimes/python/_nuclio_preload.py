"""The process that workers are forked from, where the function asks for `preload`: it has loaded the handler.

Each request of the processor is one byte with three descriptors: the worker's socket, its standard error, and where
its number is told. The worker shall be the processor's child: this process forks once, that one forks the worker, tells
its number, waits until the processor knows it, and ends; orphans are the processor's. The processor may end without
anybody noticing, so the worker asks the kernel to be killed then, which takes ctypes.
"""
import gc
import os
import sys
import time

import _signal  # type: ignore[import-not-found]
import _socket
import _struct

REQUEST_BYTES = 1
DESCRIPTORS = _struct.Struct("3i")
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
ADOPTED_EVERY = 0.0002


class Unfit(Exception):
    """Why this process cannot be forked from."""


def fork_workers(control, std, warn, ready):
    """Serves requests; returns in each worker, with its socket. This process itself ends here."""
    processor = os.getppid()
    prctl = death_signal(std)
    loops = look_around(control, warn)
    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    gc.collect()
    gc.freeze()  # else the first collection of each worker copies what all of them share
    ready()
    while True:
        data, ancillary, _, _ = control.recvmsg(REQUEST_BYTES, _socket.CMSG_SPACE(DESCRIPTORS.size),
                                                _socket.MSG_CMSG_CLOEXEC)
        if not data:
            os._exit(0)
        (_, _, packed), = ancillary
        sock, errors, birth = DESCRIPTORS.unpack(packed)
        if fork_twice(_socket.socket(fileno=birth), processor):
            be_worker(errors, birth, processor, prctl, loops, std)
            return _socket.socket(fileno=sock)
        for descriptor in (sock, errors):
            os.close(descriptor)


def fork_twice(birth, processor):
    """True in the worker, which is the processor's child then."""
    try:
        between = os.fork()
    except OSError as error:
        birth.send(b"fork: %s\n" % str(error).encode())
        birth.close()
        return False
    if between:
        birth.close()
        try:
            os.waitpid(between, 0)
        except ChildProcessError:
            pass  # the import has said that nobody waits for children
        return False
    between = os.getpid()
    try:
        worker = os.fork()
    except OSError as error:
        birth.send(b"fork: %s\n" % str(error).encode())
        os._exit(1)
    if worker == 0:
        os.setpgid(0, 0)
        birth.detach()
        while os.getppid() == between:
            time.sleep(ADOPTED_EVERY)
        return True
    try:
        os.setpgid(worker, worker)
        birth.send(b"%d\n" % worker)
        birth.recv(1)
    except OSError:
        pass  # the worker has ended, or the processor has
    os._exit(0)


def be_worker(errors, birth, processor, prctl, loops, std):
    os.dup2(errors, 2)
    os.close(errors)
    os.close(birth)
    prctl(DEATH_SIGNAL, int(_signal.SIGKILL), 0, 0, 0)
    if os.getppid() != processor:
        os._exit(0)  # it had ended before
    # The standard library's generators have been seeded anew by the fork itself.
    seed = getattr(sys.modules.get("numpy.random"), "seed", None)
    if seed is not None:
        seed()
    if loops:
        asyncio = std("asyncio")
        asyncio.set_event_loop(asyncio.new_event_loop())


def death_signal(std):
    try:
        return std("ctypes").CDLL(None).prctl
    except Exception as error:
        raise Unfit("preload needs ctypes, which this Python does not have (%s: %s); install it, or remove "
                    "spec.runtimeAttributes.preload" % (type(error).__name__, error)) from None


def look_around(control, warn):
    """Warns of what the handler's import has left that workers do not have, or would have together. True: event
    loops."""
    threading = sys.modules.get("threading")
    if threading is not None:
        main = threading.main_thread()
        names = sorted(thread.name for thread in threading.enumerate() if thread is not main)
        if names:
            warn("Importing the handler has started threads, which workers do not have, and what they held locked may "
                 "stay so: %s; start them in init_context, or remove spec.runtimeAttributes.preload" % ", ".join(names))
    sockets = loops = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink("/proc/self/fd/" + name)
        except OSError:
            continue
        if int(name) > 2 and int(name) != control.fileno():
            sockets += target.startswith("socket:")
            loops += target == "anon_inode:[eventpoll]"
    if loops:
        # Each loop has a pair of sockets of its own.
        sockets = max(0, sockets - 2 * loops)
        warn("Importing the handler has made %d event loop(s), of which workers get others; make them in init_context, "
             "or remove spec.runtimeAttributes.preload" % loops)
    if sockets:
        warn("Importing the handler has opened %d socket(s), which all workers have together and will disturb; open "
             "them in init_context, or remove spec.runtimeAttributes.preload" % sockets)
    return loops > 0
