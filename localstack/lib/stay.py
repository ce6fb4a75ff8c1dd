"""`up`, `down`, `status`: a stack that stays, for playing with. One per checkout, in its git-ignored .stack/.

`up` starts a process of its own that serves the run (lib/run.py) and provisions the demo's world in it; what the
worker needs is written to .stack/env. `down` ends it and removes the run folder. Also builds the worker.
"""
import json
import os
import shlex
import signal
import subprocess
import sys
import time

from . import find, install, keeper, provision, run, servers
from .install import say

CHECKOUT = os.path.dirname(install.HERE)
STACK = os.path.join(CHECKOUT, ".stack")
RUN = os.path.join(STACK, "run")
ENV = os.path.join(STACK, "env")
LOG = os.path.join(STACK, "log")


def build(*names, release=True):
    """name -> path of these programs of this checkout."""
    options = ["--release"] if release else []
    options += [word for name in names for word in ("--bin", name)]
    say(f"building (cargo build --locked {' '.join(options)})")
    began = time.monotonic()
    done = subprocess.run([find.cargo(), "build", "--locked", *options, "--quiet", "--message-format=json-render-diagnostics"],
                          cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    if done.returncode != 0:
        raise install.InstallFailed("cargo could not build it; its messages are above")
    made = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
    programs = {one["target"]["name"]: one["executable"] for one in made if one.get("executable")}
    say(f"built in {time.monotonic() - began:.0f} s: {', '.join(programs[name] for name in names)}")
    return programs


def is_up():
    return os.path.isdir(RUN) and keeper.is_held(RUN)


def _interrupted(signum, _frame):
    raise KeyboardInterrupt


def up(with_search):
    if is_up():
        say("already up")
        show()
        return 0
    if not find.docker():  # here and not in the process below, so that it is seen what takes its time
        install.localstack()
        if with_search:
            install.opensearch()
    for signum in keeper.ENDING:
        signal.signal(signum, _interrupted)
    keeper.remove(RUN)
    os.makedirs(RUN)
    with open(LOG, "w", encoding="utf-8") as log:
        command = [sys.executable, os.path.join(install.HERE, "main.py"), "_serve"]
        served = subprocess.Popen(command + ([] if with_search else ["--no-opensearch"]), stdin=subprocess.DEVNULL,
                                  stdout=log, stderr=log, start_new_session=True)
    try:
        while not run.read_state(RUN).get("ready"):
            if served.poll() is not None:
                with open(LOG, encoding="utf-8", errors="replace") as log:
                    sys.stderr.write(log.read()[-4000:])
                say("the stack did not come up")
                return run.EX_TEMPFAIL
            time.sleep(0.1)
        endpoints = run.read_state(RUN)["endpoints"]
        worker = provision.provision(endpoints["localstack"])
        worker |= {} if with_search else {"SKIP_OPENSEARCH": "true"}
        names = run.environment(RUN, endpoints, {}) | worker | {"ADMIN_LISTEN": "off"}
        run.write(ENV, "unset AWS_PROFILE AWS_SESSION_TOKEN\n" + "".join(
            f"export {name}={shlex.quote(value)}\n" for name, value in sorted(names.items())))
        run.write(os.path.join(RUN, "pid"), str(served.pid))
    except BaseException:
        served.send_signal(signal.SIGTERM)
        served.wait()
        raise
    show()
    return 0


def show():
    endpoints = run.read_state(RUN).get("endpoints", {})
    source, env = "quittance-files", os.path.relpath(ENV)
    env = env if "/" in env else f"./{env}"
    for name, endpoint in endpoints.items():
        print(f"  {name:<12}{endpoint}")
    print(f"  queue quittance (DLQ quittance-dlq), buckets {source} and quittance-results, variables in {env}")
    print("\nTry:")
    sample = os.path.relpath(os.path.join(install.HERE, "samples", "files"))
    print(f"  1. upload a file    curl -T {sample}/annual-report.pdf"
          f" {endpoints.get('localstack')}/{source}/reports/annual-report.pdf")
    setup = "cargo run --bin worker -- setup-index && " if "opensearch" in endpoints else ""
    print(f"  2. run the worker   . {env} && {setup}cargo run --bin worker        (Ctrl-C drains it)")
    if "opensearch" in endpoints:
        print(f"  3. search it        curl '{endpoints['opensearch']}/files-search/_search?q=content:lighthouse&pretty'")
    else:
        print(f"  3. see what is parked   curl '{endpoints.get('localstack')}/quittance-results?prefix=retry-index/'")
    print("\n'make down' ends it.")


def down():
    if not is_up():
        say("nothing is up here")
        keeper.remove(RUN)
        return 0
    with open(os.path.join(RUN, "pid"), encoding="utf-8") as file:
        pid = int(file.read())
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while is_up():
        if time.monotonic() > deadline:
            say(f"process {pid} does not end")
            return run.EX_TEMPFAIL
        time.sleep(0.05)
    keeper.remove(RUN)
    keeper.remove(STACK)
    say("down")
    return 0


def status():
    """Exit 0 if it is up and its servers answer, else 1."""
    if not is_up():
        print("down")
        return 1
    state = run.read_state(RUN)
    print("up" if state.get("ready") else "starting")
    for name, endpoint in state.get("endpoints", {}).items():
        path = "/_localstack/health" if name == "localstack" else "/_cluster/health"
        answers = servers.get_json(endpoint + path) is not None
        print(f"  {name:<12}{endpoint}  {'answers' if answers else 'does not answer'}")
    return 0 if state.get("ready") else 1
