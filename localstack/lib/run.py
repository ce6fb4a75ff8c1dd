"""One run of the stack: servers up, the command beside them, everything watched until the end.

State lies in the run folder: `state.json` (endpoints; what is ready) is written by the run, `opensearch.want`
(`up`, `down`, `killed`) by those who steer it: `stop-opensearch` and `start-opensearch`. A server that ends
without having been told to ends the run. Knows nothing of queues, buckets or the worker.
"""
import json
import os
import signal
import subprocess
import sys
import time

from . import docker, find, keeper, servers
from .install import InstallFailed, say

EX_TEMPFAIL = 75
COMMAND_GRACE = 10.0  # seconds a command has to end after Ctrl-C or SIGTERM


def write(path, text):
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".new", path)


def read_state(run):
    try:
        with open(os.path.join(run, "state.json"), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def environment(run, endpoints, base=os.environ):
    """What the command sees: this stack, and nothing of the caller's own AWS account."""
    kept = {name: value for name, value in base.items() if not name.startswith("AWS_")
            or name == "AWS_CA_BUNDLE"}
    for name in ("OPENSEARCH_ENDPOINT", "OPENSEARCH_USERNAME", "OPENSEARCH_PASSWORD", "OPENSEARCH_AUTH"):
        kept.pop(name, None)
    loopback = "127.0.0.1,localhost"
    for name in ("NO_PROXY", "no_proxy"):
        kept[name] = f"{kept[name]},{loopback}" if kept.get(name) else loopback
    return kept | {
        "AWS_ENDPOINT_URL": endpoints["localstack"], "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "QUITTANCE_STACK": "1", "STACK_RUN": run,
    } | ({"OPENSEARCH_ENDPOINT": endpoints["opensearch"]} if "opensearch" in endpoints else {})


class Run:
    def __init__(self, folder, with_search):
        self.folder, self.with_search = folder, with_search
        self.servers = {}

    def publish(self, ready):
        endpoints = {name: server.endpoint for name, server in self.servers.items()}
        up = self.servers.get("opensearch")
        write(os.path.join(self.folder, "state.json"), json.dumps({
            "ready": ready, "endpoints": endpoints, "inner": os.getpid(),
            "opensearch": ("up" if up.process else "down") if up else "absent"}))

    def start(self):
        began = time.monotonic()
        road = docker.docker_servers if find.docker() else servers.local_servers
        self.servers = road(self.folder, self.with_search)
        for server in reversed(self.servers.values()):  # OpenSearch takes longest
            server.start()
        for server in self.servers.values():
            server.wait_healthy()
        write(os.path.join(self.folder, "opensearch.want"), "up")
        self.publish(ready=True)
        say("up in {:.1f} s: {}".format(time.monotonic() - began, ", ".join(
            f"{server.name} {server.endpoint}" for server in self.servers.values())))

    def obey(self):
        """Stops or starts OpenSearch if somebody asked for it."""
        server = self.servers.get("opensearch")
        if not server:
            return
        with open(os.path.join(self.folder, "opensearch.want"), encoding="utf-8") as file:
            want = file.read().strip()
        if want in ("down", "killed") and server.process:
            server.stop(signal.SIGKILL if want == "killed" else signal.SIGTERM)
            self.publish(ready=True)
        elif want == "up" and not server.process:
            server.start()  # the same port, the same data
            server.wait_healthy()
            self.publish(ready=True)

    def watch(self, command=None):
        """Until the command ends (its exit code), or for ever; a server that ends on its own ends the run."""
        while True:
            if command and command.poll() is not None:
                code = command.returncode
                return code if code >= 0 else 128 - code
            self.obey()
            for server in self.servers.values():
                if server.process and not server.alive():
                    raise servers.ServerFailed(f"{server.name} ended on its own ({server.how_it_ended()})")
            time.sleep(0.1)

    def attempt(self, act):
        """Runs `act`, turning the known ways to fail into one line and an exit code."""
        try:
            return act()
        except find.Missing as missing:
            say(str(missing))
            return find.EX_UNAVAILABLE
        except InstallFailed as failed:
            say(str(failed))
        except servers.ServerFailed as failed:
            for server in self.servers.values():
                if server.name in str(failed):
                    sys.stderr.write(f"---- the end of {server.name}'s log\n{server.tail()}----\n")
            say(str(failed))
        return EX_TEMPFAIL

    def end(self, command=None):
        if command and command.poll() is None:
            command.terminate()
            try:
                command.wait(COMMAND_GRACE)
            except subprocess.TimeoutExpired:
                pass
        for server in self.servers.values():
            server.discard()


def execute(command, with_search, more_environment=None):
    """`exec`: the stack for as long as the command runs. Returns the command's exit code."""
    folder = keeper.new_run_folder()

    def inner():
        run, child = Run(folder, with_search), None

        def act():
            nonlocal child
            run.start()
            endpoints = {name: server.endpoint for name, server in run.servers.items()}
            try:
                child = subprocess.Popen(command, env=environment(folder, endpoints) | (more_environment or {}),
                                         preexec_fn=keeper.die_with_parent(signal.SIGTERM))
            except OSError as error:
                say(f"cannot run {command[0]}: {error.strerror}")
                return 127
            return run.watch(child)

        try:
            return run.attempt(act)
        finally:
            run.end(child)

    return keeper.keep(folder, inner, docker.remove if find.docker() else None)


def serve(folder, with_search):
    """`up`: the stack until it is told to end."""
    def inner():
        run = Run(folder, with_search)

        def act():
            run.start()
            return run.watch()

        try:
            return run.attempt(act)
        finally:
            run.end()

    return keeper.keep(folder, inner, docker.remove if find.docker() else None)


def steer_opensearch(folder, want):
    """Asks a run to stop or start OpenSearch, and waits until it has."""
    if read_state(folder).get("opensearch", "absent") == "absent":
        say("this run has no OpenSearch")
        return 1
    write(os.path.join(folder, "opensearch.want"), want)
    reached = "up" if want == "up" else "down"
    deadline = time.monotonic() + servers.START_DEADLINE
    while read_state(folder).get("opensearch") != reached:
        if time.monotonic() > deadline or not keeper.is_held(folder):
            say(f"OpenSearch is not {reached}")
            return EX_TEMPFAIL
        time.sleep(0.05)
    return 0
