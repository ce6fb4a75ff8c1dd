"""What a demo that checks itself is made of: steps, checks that can fail, waits with a deadline, the worker.

Promises that nothing is shown that was not checked, that no wait is a fixed sleep, and that a failure says what was
expected and what was last seen. Knows the worker's log lines (design §8) and nothing of what is demonstrated.
"""
import json
import os
import signal
import subprocess
import sys
import time


class NotSo(Exception):
    """Something that should have been shown is not so."""


BOLD, PLAIN = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
_began = time.monotonic()


def step(text):
    print(f"\n{BOLD}== {text}{PLAIN}  [{time.monotonic() - _began:.1f} s]", flush=True)


def line(text):
    print(f"   {text}", flush=True)


def check(so, text, otherwise=""):
    if not so:
        raise NotSo(f"not so: {text}" + (f" ({otherwise})" if otherwise else ""))
    print(f"   ok  {text}", flush=True)


def eventually(what, probe, seconds=60, worker=None):
    """Calls `probe` until it says (True, _); returns what it saw. `probe` returns (done, seen)."""
    deadline, seen = time.monotonic() + seconds, None
    while True:
        done, seen = probe()
        if done:
            return seen
        if worker and worker.process.poll() is not None:
            raise NotSo(f"the worker ended by itself (exit {worker.process.returncode}), waiting for: {what}")
        if time.monotonic() > deadline:
            raise NotSo(f"not within {seconds} s: {what} (last seen: {seen})")
        time.sleep(0.1)


class Worker:
    """The worker's process, and its JSON log as facts."""

    def __init__(self, binary, environment, log):
        self.binary, self.environment, self.log_path = binary, environment, log
        self.process = None

    def command(self, *arguments, seconds=60):
        done = subprocess.run([self.binary, *arguments], env=self.environment, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds)
        return done.returncode, done.stdout.decode(errors="replace").strip()

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([self.binary, "run"], env=self.environment, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)

    def facts(self, event=None):
        """The log's lines that are whole, in order."""
        try:
            with open(self.log_path, encoding="utf-8", errors="replace") as log:
                text = log.read()
        except FileNotFoundError:
            return []
        found = []
        for one in text[:text.rfind("\n") + 1].splitlines():
            try:
                fact = json.loads(one)
            except ValueError:
                continue
            if isinstance(fact, dict) and (event is None or fact.get("event") == event):
                found.append(fact)
        return found

    def resident_mib(self):
        try:
            with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
                peak = next(one for one in status if one.startswith("VmHWM:"))
            return int(peak.split()[1]) / 1024
        except (OSError, StopIteration):
            return None

    def stop(self, seconds):
        """SIGTERM; returns (exit code, seconds it took)."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds), time.monotonic() - began
        except subprocess.TimeoutExpired:
            raise NotSo(f"the worker has not ended {seconds} s after SIGTERM") from None

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def tail(self, lines=40):
        if not os.path.exists(self.log_path):
            return ""
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return "".join(f"   | {one[:400].rstrip()}\n" for one in log.readlines()[-lines:])
