"""The commands of localstack/stack.

  exec [--no-opensearch] -- CMD ARGS…   run CMD beside a stack of its own; everything ends with it
  demo                                  the main job, shown and checked (builds the worker, or takes WORKER_BIN)
  drill dlq|opensearch-down|poison|all  an incident of deploy/RUNBOOK.md, rehearsed
  up [--no-opensearch] | down | status  a stack that stays, with queues and buckets, in .stack/ of this checkout
  stop-opensearch [--kill]              in a run, or for the one that is up: search goes away…
  start-opensearch                      …and comes back, on the same port and data
  provision NAME                        in a run: the data plane of deploy/stack.yaml under that name; the variables as JSON
  node [MAX_CONTENT_LENGTH]             in a run: one more OpenSearch, steered through stdin (lib/node.py)
  check [--demo]                        is everything here that has to be installed first?
  cargo-deny ARGS…                      a pinned cargo-deny, in this checkout
  scripts                               shell, Python and (where there is a cfn-lint) deploy/stack.yaml of this checkout are
                                        well-formed, and the samples are what they should be
  install                               fetch LocalStack and OpenSearch now (exec, demo and up do so by themselves)

CMD sees AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_EC2_METADATA_DISABLED,
OPENSEARCH_ENDPOINT, QUITTANCE_STACK=1 and STACK_RUN. QUITTANCE_CACHE says where downloads are kept,
QUITTANCE_NO_DOCKER=1 does without a Docker daemon that is there.
"""
import json
import os
import subprocess
import sys

from . import aws, find, install, keeper, node, provision, run, stay
from .install import say

EX_USAGE = 64


def missing_for_tests():
    """What the tests need and this machine does not have, one line each."""
    if find.docker():
        return []
    lines = []
    try:
        find.need_python()
    except find.Missing as missing:
        lines.append(str(missing))
    return lines + missing_for_search()


def missing_for_search():
    if find.docker():
        return []
    lines = [] if find.java() else [find.no_java()]
    if not find.maven() and not install.opensearch_installed():
        lines.append(find.no_maven())
    return lines


def refuse(lines):
    for line in lines:
        say(line)
    return find.EX_UNAVAILABLE


def check(arguments):
    lines = missing_for_tests()
    if arguments == ["--demo"]:
        lines = [line for line in lines if line not in missing_for_search()]
    if arguments != ["--demo"] and not find.browser():
        lines.append(find.no_browser())
    lines += find.missing_for_building(linting=arguments != ["--demo"])
    return refuse(lines) if lines else 0


def fetch():
    if find.docker():
        return 0
    lines = missing_for_tests()
    if lines:
        return refuse(lines)
    install.localstack()
    install.opensearch()
    return 0


def execute(arguments):
    with_search = "--no-opensearch" not in arguments[:1]
    command = arguments if with_search else arguments[1:]
    if not command or command[0] != "--" or len(command) < 2:
        say("usage: stack exec [--no-opensearch] -- CMD ARGS…")
        return EX_USAGE
    lines = missing_for_tests()
    if not with_search:
        lines = [line for line in lines if line not in missing_for_search()]
    return refuse(lines) if lines else run.execute(command[1:], with_search)


def demo(arguments):
    if not find.docker():
        find.need_python()
    no_search = missing_for_search()
    if no_search:
        say(f"search will not be shown: {no_search[0]}")
    worker = os.environ.get("WORKER_BIN")
    if not worker:
        lines = find.missing_for_building(linting=False)
        if lines:
            return refuse(lines)
        worker = stay.build("worker")["worker"]
    elif not os.access(worker, os.X_OK):
        say(f"WORKER_BIN={worker} is not a program")
        return EX_USAGE
    script = os.path.join(install.HERE, "demo.py")
    return run.execute([sys.executable, script, *arguments], not no_search,
                       {"WORKER_BIN": os.path.abspath(worker)})


def drill(arguments):
    lines = missing_for_search() + find.missing_for_building(linting=False)
    if lines:
        return refuse(lines)
    programs = stay.build("worker", "redrive", release=False)
    script = os.path.join(install.HERE, "drill.py")
    return run.execute([sys.executable, script, *arguments], True,
                       {"WORKER_BIN": programs["worker"], "REDRIVE_BIN": programs["redrive"]})


def parses(path):
    """False if it is a shell script or Python and its syntax is wrong."""
    if not os.path.isfile(path):
        return True
    with open(path, "rb") as file:
        text = file.read()
    first = text.split(b"\n", 1)[0]
    if path.endswith(".sh") or (first.startswith(b"#!") and first.endswith((b"/sh", b"bash"))):
        return subprocess.run(["bash", "-n", path]).returncode == 0
    if path.endswith(".py"):
        try:
            compile(text, path, "exec")
        except SyntaxError as error:
            say(f"{path}:{error.lineno}: {error.msg}")
            return False
    return True


def template_is_well_formed():
    """What cfn-lint says, where it runs (a pyenv shim may be there and refuse). Not in requirements.txt: it brings sympy."""
    try:
        subprocess.run(["cfn-lint", "--version"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        say("skipped: there is no cfn-lint on this machine (tests/stack and LocalStack read deploy/stack.yaml all the same)")
        return True
    return subprocess.run(["cfn-lint", "--", provision.TEMPLATE]).returncode == 0


def scripts():
    """Bad syntax, or samples that their generator does not make, are said by bash, Python and the generator."""
    wrong, skipped = 0, {"target", ".git", ".stack"}
    for folder, folders, files in os.walk(stay.CHECKOUT):
        folders[:] = [name for name in folders if name not in skipped]
        for path in (os.path.join(folder, name) for name in files):
            wrong += not parses(path)
    wrong += subprocess.run([sys.executable, os.path.join(install.HERE, "make_samples.py"), "--check"]).returncode != 0
    wrong += not template_is_well_formed()
    return 1 if wrong else 0


def steer(want):
    folder = os.environ.get("STACK_RUN") or stay.RUN
    if not os.path.isdir(folder) or not keeper.is_held(folder):
        say("no stack is running here: 'localstack/stack up' starts one")
        return 1
    return run.steer_opensearch(folder, want)


def main(arguments):
    command, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    try:
        if command in ("help", "--help", "-h"):
            print(__doc__)
            return 0
        if command == "exec":
            return execute(rest)
        if command == "demo":
            return demo(rest)
        if command == "drill" and rest:
            return drill(rest)
        if command == "cargo-deny":
            return subprocess.run([install.cargo_deny(), *rest], cwd=stay.CHECKOUT).returncode
        if command == "scripts" and not rest:
            return scripts()
        if command in ("check", "install") and rest in ([], ["--demo"]):
            return check(rest) if command == "check" else fetch()
        if command in ("up", "_serve") and rest in ([], ["--no-opensearch"]):
            if command == "_serve":
                return run.serve(stay.RUN, not rest)
            lines = [] if rest else missing_for_search()
            if lines:
                say(f"search will not be there: {lines[0]}")
            return stay.up(with_search=not rest and not lines)
        if command == "down" and not rest:
            return stay.down()
        if command == "status" and not rest:
            return stay.status()
        if command == "stop-opensearch" and rest in ([], ["--kill"]):
            return steer("killed" if rest else "down")
        if command == "start-opensearch" and not rest:
            return steer("up")
        if command == "provision" and len(rest) == 1 and os.environ.get("STACK_RUN"):
            print(json.dumps(provision.provision(os.environ["AWS_ENDPOINT_URL"], rest[0])))
            return 0
        if command == "node" and len(rest) <= 1 and os.environ.get("STACK_RUN"):
            return node.serve(os.environ["STACK_RUN"], rest[0] if rest else "100mb")
    except find.Missing as missing:
        return refuse([str(missing)])
    except (install.InstallFailed, aws.Refused) as failed:
        say(str(failed))
        return run.EX_TEMPFAIL
    except KeyboardInterrupt:
        return 130
    say(f"no such command: {' '.join(arguments)}")
    print(__doc__, file=sys.stderr)
    return EX_USAGE
