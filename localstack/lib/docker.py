"""The road with a Docker daemon: the same two servers from docker-compose.yml. Not run in CI (no daemon there).

Promises the same as lib/servers.py: loopback only, free ports, a project of its own per run, removed at the end.
"""
import os
import signal
import subprocess

from . import install, servers

COMPOSE = os.path.join(install.HERE, "docker-compose.yml")


class Container(servers.Server):
    """One service of the compose project. `process` is True while it is meant to run."""

    def __init__(self, run, project, service, name, ports):
        self.name = name
        super().__init__(run)
        self.project, self.service, self.ports = project, service, ports
        ports[service] = self.port

    def compose(self, *arguments, check=True):
        environment = dict(os.environ, QUITTANCE_LOCALSTACK_PORT=str(self.ports.get("localstack", 0)),
                           QUITTANCE_OPENSEARCH_PORT=str(self.ports.get("opensearch", 0)))
        done = subprocess.run(["docker", "compose", "-p", self.project, "-f", COMPOSE, *arguments],
                              env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
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
        self.process = True

    def wait_healthy(self):
        self.compose("up", "--detach", "--no-deps", "--no-recreate", "--wait",
                     "--wait-timeout", str(servers.START_DEADLINE), self.service)

    def alive(self):
        return bool(self.compose("ps", "--quiet", "--status", "running", self.service, check=False).strip())

    def stop(self, signum=signal.SIGTERM):
        if self.process:
            self.compose(*(["kill", self.service] if signum == signal.SIGKILL else ["stop", self.service]))
        self.process = None

    def discard(self):
        self.compose("down", "--volumes", "--timeout", "0", check=False)
        self.process = None

    def how_it_ended(self):
        return "its container is not running"

    def tail(self, lines=30):
        if os.path.exists(self.log):
            return super().tail(lines)
        return self.compose("logs", "--tail", str(lines), self.service, check=False)


def docker_servers(run, with_search):
    project, ports = os.path.basename(run).lower().replace(".", "-"), {}
    found = {"localstack": Container(run, project, "localstack", "LocalStack", ports)}
    if with_search:
        found["opensearch"] = Container(run, project, "opensearch", "OpenSearch", ports)
    return found
