"""The road with a Docker daemon: the same two servers from docker-compose.yml. Not run in CI (no daemon there).

Promises the same as lib/servers.py: loopback only, free ports, a project of its own per run, removed at the end.
"""
import hashlib
import os
import signal
import subprocess
import time

from . import install, servers

COMPOSE = os.path.join(install.HERE, "docker-compose.yml")


class Container(servers.Server):
    """One service of the compose project. `process` is True while it is meant to run."""

    def __init__(self, run, project, service, name, ports):
        self.name = name
        super().__init__(run)
        self.project, self.service, self.ports = project, service, ports
        ports[service] = self.port
        self.looked, self.running = 0.0, True

    def compose(self, *arguments, check=True):
        environment = dict(os.environ, QUITTANCE_LOCALSTACK_PORT=str(self.ports.get("localstack", 0)),
                           QUITTANCE_OPENSEARCH_PORT=str(self.ports.get("opensearch", 0)))
        done = subprocess.run(["docker", "compose", "-p", self.project, "-f", COMPOSE, *arguments],
                              env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, start_new_session=True)
        text = done.stdout.decode(errors="replace")
        if check and done.returncode != 0:
            with open(self.log, "w", encoding="utf-8") as log:
                log.write(text)
            raise servers.ServerFailed(f"{self.name}: 'docker compose {arguments[0]}' failed")
        return text

    def start(self):
        # `start` keeps the container and with it the data; `up` makes it the first time
        known = self.compose("ps", "--all", "--quiet", self.service, check=False).strip()
        self.compose(*(["start", self.service] if known else ["up", "--detach", "--no-deps", self.service]))
        self.process, self.looked, self.running = True, time.monotonic(), True

    def wait_healthy(self):
        self.compose("up", "--detach", "--no-deps", "--no-recreate", "--wait",
                     "--wait-timeout", str(servers.START_DEADLINE), self.service)

    def alive(self):
        if time.monotonic() - self.looked > 2:  # asked ten times a second, and each look is a process
            self.looked = time.monotonic()
            self.running = bool(self.compose("ps", "--quiet", "--status", "running", self.service, check=False).strip())
        return self.running

    def stop(self, signum=signal.SIGTERM):
        if self.process:
            self.compose(*(["kill", self.service] if signum == signal.SIGKILL else ["stop", self.service]))
        self.process = None

    def freeze(self, on):
        self.compose("pause" if on else "unpause", self.service)

    def discard(self):
        self.process = None  # remove() ends them all

    def how_it_ended(self):
        return "its container is not running"

    def tail(self, lines=30):
        if os.path.exists(self.log):
            return super().tail(lines)
        return self.compose("logs", "--tail", str(lines), self.service, check=False)


def project_of(run):
    """One per run folder; that of `up` is named after its checkout."""
    digest = hashlib.sha256(os.path.realpath(run).encode()).hexdigest()[:12]
    return f"quittance-{digest}"


def remove(run):
    """Ends all containers of a run; also after a kill -9, as the keeper calls it."""
    subprocess.run(["docker", "compose", "-p", project_of(run), "-f", COMPOSE, "down", "--volumes", "--timeout", "0"],
                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def docker_servers(run, with_search):
    project, ports = project_of(run), {}
    found = {"localstack": Container(run, project, "localstack", "LocalStack", ports)}
    if with_search:
        found["opensearch"] = Container(run, project, "opensearch", "OpenSearch", ports)
    return found
