"""`node`: one more OpenSearch beside a run, for a test that breaks it.

Steered through stdin, a word a line, and each is answered with a line: `freeze` → `frozen`, `thaw` → `thawed`,
`kill` (-9) or `stop` → `down`, `start` → `up URL`, on the same port and data. Begins with `up URL`, ends with its
stdin. Promises that nothing of it outlives the run that it stands beside; knows nothing of that run but its folder.
"""
import os
import signal
import sys

from . import docker, find, install, servers
from .install import say


def _server(folder, max_content_length):
    if find.docker():
        os.environ["QUITTANCE_OPENSEARCH_MAX_CONTENT"] = max_content_length
        return docker.docker_servers(folder, with_search=True)["opensearch"]
    settings = [f"http.max_content_length: {max_content_length}"]
    return servers.OpenSearch(folder, find.java(), install.opensearch(), settings)


def _obey(server, word):
    if word == "start":
        server.start()
        server.wait_healthy()
        return f"up {server.endpoint}"
    if word in ("stop", "kill"):
        server.stop(signal.SIGKILL if word == "kill" else signal.SIGTERM)
        return "down"
    if word in ("freeze", "thaw"):
        server.freeze(word == "freeze")
        return "frozen" if word == "freeze" else "thawed"
    return f"no such word: {word}"


def serve(run, max_content_length):
    folder = os.path.join(run, f"node-{os.getpid()}")
    os.makedirs(folder)
    server = _server(folder, max_content_length)
    try:
        print(_obey(server, "start"), flush=True)
        for line in sys.stdin:
            print(_obey(server, line.strip()), flush=True)
        return 0
    except servers.ServerFailed as failed:
        sys.stderr.write(server.tail())
        say(str(failed))
        return 75
    finally:
        server.discard()
        if find.docker():
            docker.remove(folder)
