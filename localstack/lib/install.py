"""The cache: LocalStack's virtual environment, OpenSearch's layout and cargo-deny, each fetched once per set of pins.

Promises: a folder is named after a hash of its pins, is made under a lock, and counts only when its stamp, which
is written last, is there; so a half-finished one is made again, and commands and checkouts share what is whole.
It lies outside the build's folder, so that `cargo clean` keeps it. Starts no servers.
"""
import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time

from . import find

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
REQUIREMENTS = os.path.join(HERE, "requirements.txt")
POM = os.path.join(HERE, "opensearch-pom.xml")

CARGO_DENY = "0.20.2"


class InstallFailed(Exception):
    """One line: which tool failed, at what."""


def say(line):
    print(f"stack: {line}", file=sys.stderr, flush=True)


def cache():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.environ.get("QUITTANCE_CACHE") or os.path.join(base, "quittance")


def _name(kind, version, *pins):
    digest = hashlib.sha256()
    for pin in pins:
        digest.update(pin.encode() + b"\0")
    return os.path.join(cache(), f"{kind}-{version}-{digest.hexdigest()[:12]}")


def _read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


@contextlib.contextmanager
def _locked(folder):
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with open(folder + ".lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another run that fills {folder}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(what, command, **more):
    """Runs a tool whose output matters only when it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **more)
    if done.returncode != 0:
        sys.stderr.write(done.stdout.decode(errors="replace")[-4000:] + "\n")
        raise InstallFailed(f"{what} failed (exit {done.returncode}); its last output is above")


def _made(folder, what, make):
    """The folder, made now if its stamp is not there."""
    stamp = os.path.join(folder, ".ready")
    if not os.path.exists(stamp):
        with _locked(folder):
            if not os.path.exists(stamp):
                say(f"{what}, once, into {folder}")
                began = time.monotonic()
                shutil.rmtree(folder, ignore_errors=True)
                os.makedirs(folder)
                make(folder)
                with open(stamp, "w", encoding="utf-8"):
                    pass
                say(f"done in {time.monotonic() - began:.0f} s")
    return folder


# ---- LocalStack

def _localstack_folder():
    python = find.need_python()
    pins = _read(REQUIREMENTS)
    version = re.search(r"^localstack-core==(\S+)", pins, re.M).group(1)
    # the interpreter is part of the name: a virtual environment works with the one that made it
    return _name("localstack", version, pins, os.path.realpath(python), platform.machine())


def localstack_installed():
    folder = _localstack_folder()
    return os.path.exists(os.path.join(folder, ".ready"))


def localstack():
    """The python of a virtual environment that holds LocalStack."""
    python = find.need_python()

    def make(folder):
        venv = os.path.join(folder, "venv")
        _run("making a virtual environment (is the package python3-venv there?)", [python, "-m", "venv", venv])
        _run("pip (installing LocalStack)", [
            os.path.join(venv, "bin", "python"), "-m", "pip", "install", "--quiet", "--no-input",
            "--disable-pip-version-check", "--no-deps", "-r", REQUIREMENTS])

    folder = _made(_localstack_folder(), "installing LocalStack from PyPI", make)
    return os.path.join(folder, "venv", "bin", "python")


# ---- OpenSearch

def opensearch_version():
    return re.search(r"<opensearch.version>(.*)</", _read(POM)).group(1)


def _opensearch_folder():
    return _name("opensearch", opensearch_version(), _read(POM))


def opensearch_installed():
    return os.path.exists(os.path.join(_opensearch_folder(), ".ready"))


def opensearch():
    """The home of a laid-out OpenSearch; Maven is needed only when it is not there yet."""
    version = opensearch_version()
    java, maven = find.java(), find.maven()

    def make(folder):
        if not maven:
            raise find.Missing(find.no_maven())
        # A repository of its own, given up afterwards: the layout is what is kept, and ~/.m2 stays as it was.
        repository = os.path.join(folder, "repository")
        environment = dict(os.environ)
        if java:
            environment["JAVA_HOME"] = os.path.dirname(os.path.dirname(os.path.realpath(java)))
        _run("mvn (fetching OpenSearch)", [
            maven, "--batch-mode", "--quiet", "--strict-checksums", f"-Dmaven.repo.local={repository}",
            "-f", POM, f"-Dos.home={folder}", "generate-resources"], env=environment)
        home = os.path.join(folder, f"opensearch-{version}")
        for name, entry in (("analysis-icu", "org.opensearch.plugin.analysis.icu.AnalysisICUPlugin"),
                            ("analysis-kuromoji",
                             "org.opensearch.plugin.analysis.kuromoji.AnalysisKuromojiPlugin")):
            path = os.path.join(home, "plugins", name, "plugin-descriptor.properties")
            with open(path, "w", encoding="utf-8") as descriptor:
                descriptor.write(f"description={name}\nversion={version}\nname={name}\nclassname={entry}\n"
                                 f"java.version=21\nopensearch.version={version}\n")
        shutil.rmtree(repository, ignore_errors=True)

    folder = _made(_opensearch_folder(), "laying out OpenSearch from Maven Central", make)
    return os.path.join(folder, f"opensearch-{version}")


# ---- cargo-deny

def cargo_deny():
    """A pinned cargo-deny, built once."""
    cargo = find.cargo()

    def make(folder):
        _run("cargo install cargo-deny", [cargo, "install", "--quiet", "--locked", "--root", folder,
                                          "--version", CARGO_DENY, "cargo-deny"], cwd=folder)

    folder = _made(_name("cargo-deny", CARGO_DENY, platform.machine(), platform.system()),
                   "building cargo-deny (some minutes)", make)
    return os.path.join(folder, "bin", "cargo-deny")
