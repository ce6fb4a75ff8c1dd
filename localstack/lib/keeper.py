"""Nothing is left running: two processes that watch each other, and a run folder that dies with them.

The *keeper* (the process that was called) forks the *inner* one, which starts servers and the command. Both are
"subreapers": what they started comes back to them when its parent dies, whatever session it moved to. So when the
inner one ends, also by kill -9, the keeper ends everything that is left; when the keeper is killed, the inner one
is told (PR_SET_PDEATHSIG) and ends its children itself. If both are killed at once, the servers die with the inner
one, and the next run removes the folder. Needs Linux for all this; elsewhere only the ordinary ends are covered.
Knows nothing of what it keeps.
"""
import ctypes
import errno
import fcntl
import glob
import os
import shutil
import signal
import sys
import tempfile
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PREFIX = "quittance-stack-"


class Stopped(BaseException):
    """A signal asked this process to end."""

    def __init__(self, signum):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _prctl(option, value):
    if _libc:
        _libc.prctl(option, value, 0, 0, 0)


def die_with_parent(signum):
    """For `preexec_fn`: the child gets this signal when its parent is gone."""
    return lambda: _prctl(PR_SET_PDEATHSIG, int(signum))


# ---- the run folder

def new_run_folder():
    """A private folder, held by a lock for as long as this run lives. Removes those of runs that were killed."""
    top = tempfile.gettempdir()
    for old in glob.glob(os.path.join(top, PREFIX + "*")):
        try:
            if os.stat(old).st_uid == os.getuid() and not is_held(old):
                shutil.rmtree(old, ignore_errors=True)
        except OSError:
            pass
    folder = tempfile.mkdtemp(prefix=PREFIX, dir=top)
    return folder


def hold(folder):
    """Takes the folder's lock; it is given back when the last process that holds the returned file is gone."""
    lock = open(os.path.join(folder, "lock"), "a", encoding="utf-8")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def is_held(folder):
    """Whether a run that lives holds it. One that has just been made and not yet locked counts as held."""
    try:
        with open(os.path.join(folder, "lock"), "r+", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return time.time() - os.stat(folder).st_mtime < 60


# ---- descendants

def _descendants():
    """Pids of all that this process started and that still lives, children of children included."""
    found, queue = [], [os.getpid()]
    while queue:
        pid = queue.pop()
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                    children = [int(child) for child in file.read().split()]
                found += children
                queue += children
        except OSError:
            continue
    return found


def end_descendants(ask_first=0.0):
    """Ends all of them: SIGTERM and some seconds to comply, if asked for, then SIGKILL. Returns when none is left."""
    def tell(signum):
        for pid in _descendants():
            try:
                os.kill(pid, signum)
            except OSError:
                pass

    def reap_until(deadline):
        while time.monotonic() < deadline:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                time.sleep(0.02)
        return False

    if ask_first:
        tell(signal.SIGTERM)
        if reap_until(time.monotonic() + ask_first):
            return
    for _ in range(100):  # a process may fork while we look: look again
        tell(signal.SIGKILL)
        if reap_until(time.monotonic() + 0.1):
            return


def remove(folder):
    for _ in range(5):  # a dying server may still write
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            return
        time.sleep(0.1)


# ---- the pair

def keep(folder, inner, last=None):
    """Runs `inner()` in a forked process and returns its exit code, with everything ended and the folder gone.

    `last(folder)` is called when the processes are ended: for what is not a process of ours.
    """
    lock = hold(folder)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    keeper = os.getpid()
    pid = os.fork()
    if pid == 0:
        os._exit(_inner(folder, inner, last, keeper))

    def pass_on(signum, _frame):
        try:
            os.kill(pid, signum)
        except OSError:
            pass

    for signum in ENDING:
        signal.signal(signum, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    while True:
        try:
            _, status = os.waitpid(pid, 0)
            break
        except OSError as error:
            if error.errno != errno.EINTR:
                raise
    _tidy(folder, last)
    lock.close()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _tidy(folder, last):
    """Both of the pair do this, in this order: whoever is left. It may be done twice."""
    end_descendants()
    if last and os.path.exists(folder):
        last(folder)
    remove(folder)


def _inner(folder, inner, last, keeper):
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    die_with_parent(signal.SIGTERM)()
    first = []

    def stop(signum, _frame):
        if not first:  # one is enough: the terminal and the keeper may both tell us
            first.append(signum)
            raise Stopped(signum)

    for signum in ENDING:
        signal.signal(signum, stop)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        if os.getppid() != keeper:  # it died before we asked to be told
            raise Stopped(signal.SIGTERM)
        code = inner()
    except Stopped as stopped:
        code = 128 + stopped.signum
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:  # the keeper must get a code, and the report must be seen
        import traceback
        traceback.print_exc()
        code = 70
    first.append(0)  # from here on signals change nothing
    _tidy(folder, last)
    sys.stdout.flush()
    sys.stderr.flush()
    return code
