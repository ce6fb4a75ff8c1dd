"""Where interpreters live: Python, a JDK, Maven, a browser, cargo, a Docker daemon.

Promises: looks in PATH, in the usual variables and in the usual folders, not only under one name; what is
missing is named in one line that says how to install it. Installs nothing and starts nothing that stays.
"""
import functools
import glob
import os
import re
import shutil
import subprocess
import sys

EX_UNAVAILABLE = 69  # something that has to be installed first is missing

OLDEST_PYTHON = (3, 13)  # LocalStack 4.14 installs on older ones and then cannot load s3 and sqs
OLDEST_JDK = 21          # OpenSearch 3
OLDEST_RUST = (1, 95)
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class Missing(Exception):
    """One line: what is missing, and how to install it."""


def _output(*command, timeout=20):
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def need_python():
    if sys.version_info < OLDEST_PYTHON:
        raise Missing("Python >= 3.13 is missing (LocalStack needs it): install it, for example with "
                      "'uv python install 3.13' or 'pyenv install 3.13', or set PYTHON")
    return sys.executable


def _java_major(java):
    """From the JDK's `release` file where there is one (no process), else by asking it."""
    home = os.path.dirname(os.path.dirname(os.path.realpath(java)))
    try:
        with open(os.path.join(home, "release"), encoding="utf-8", errors="replace") as release:
            found = re.search(r'^JAVA_VERSION="(\d+)', release.read(), re.M)
    except OSError:
        found = None
    if not found:
        said = _output(java, "-XshowSettings:properties", "-version") or ""
        found = re.search(r"java\.specification\.version = (\d+)", said)
    return int(found.group(1)) if found else 0


def java():
    """A java of a JDK new enough for OpenSearch, or None."""
    homes = [os.environ.get("JAVA_HOME", "")]
    on_path = shutil.which("java")
    folders = ["/usr/lib/jvm/*", "/usr/java/*", "/opt/java/*", "/opt/jdk*", "~/.sdkman/candidates/java/*",
               "~/.jdks/*", "/Library/Java/JavaVirtualMachines/*/Contents/Home",
               "/opt/homebrew/opt/openjdk*/libexec/openjdk.jdk/Contents/Home"]
    candidates = [os.path.join(home, "bin", "java") for home in homes if home] + ([on_path] if on_path else [])
    for folder in folders:
        candidates += sorted(glob.glob(os.path.expanduser(os.path.join(folder, "bin", "java"))), reverse=True)
    for candidate in candidates:
        if os.access(candidate, os.X_OK) and _java_major(candidate) >= OLDEST_JDK:
            return candidate
    return None


def maven():
    """An mvn, or None. It is needed for the first layout of OpenSearch only."""
    homes = [os.environ.get(name, "") for name in ("MAVEN_HOME", "M2_HOME")]
    candidates = [os.path.join(home, "bin", "mvn") for home in homes if home] + [shutil.which("mvn") or ""]
    for folder in ("/usr/share/maven*", "/opt/maven*", "/opt/apache-maven*", "~/.sdkman/candidates/maven/*",
                   "/opt/homebrew/opt/maven"):
        candidates += sorted(glob.glob(os.path.expanduser(os.path.join(folder, "bin", "mvn"))), reverse=True)
    return next((found for found in candidates if found and os.access(found, os.X_OK)), None)


def no_java():
    return (f"a JDK >= {OLDEST_JDK} is missing (OpenSearch needs it): install one, for example the package "
            f"openjdk-{OLDEST_JDK}-jre-headless or Temurin, or set JAVA_HOME")


def no_maven():
    return ("Maven is missing (it fetches OpenSearch, the first time only): install the package maven, "
            "or set MAVEN_HOME")


def browser():
    """A Chromium for the tests of pages, or None. tests/browser/mod.rs looks in the same places."""
    named = os.environ.get("QUITTANCE_BROWSER")
    if named:
        return shutil.which(named)
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def no_browser():
    if os.environ.get("QUITTANCE_BROWSER"):
        return f"QUITTANCE_BROWSER={os.environ['QUITTANCE_BROWSER']} is not a program"
    return ("a browser is missing (pages are tested in one): install the package chromium-headless-shell or chromium, or "
            "Google Chrome, or set QUITTANCE_BROWSER")


def cargo():
    """cargo, with a rustc that is new enough."""
    found = shutil.which("cargo") or shutil.which("cargo", path=os.path.expanduser("~/.cargo/bin"))
    how = "install or update it with rustup ('rustup update stable')"
    if not found:
        raise Missing(f"cargo is missing (Rust >= 1.95): {how}")
    said = _output(found, "--version", timeout=600)  # a rustup that has to fetch the toolchain takes its time
    version = re.search(r"cargo (\d+)\.(\d+)", said or "")
    if not version:
        raise Missing(f"'{found} --version' fails (Rust >= 1.95 is needed): {how}")
    if tuple(map(int, version.groups())) < OLDEST_RUST:
        raise Missing(f"{said.split(' (')[0].strip()} is too old (Rust >= 1.95 is needed): {how}")
    return found


def missing_for_building(linting):
    """What cargo needs here and does not find, one line each."""
    try:
        found = cargo()
    except Missing as missing:
        return [str(missing)]
    lines = []
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        lines.append("a C compiler is missing (Rust links with it): install gcc, for example the package build-essential")
    for tool, component in (("fmt", "rustfmt"), ("clippy", "clippy")) if linting else ():
        if _output(found, tool, "--version") is None:
            lines.append(f"cargo {tool} is missing: 'rustup component add {component}'")
    return lines


@functools.cache
def docker():
    """Whether a Docker daemon with compose answers. QUITTANCE_NO_DOCKER=1 forces the road without."""
    if os.environ.get("QUITTANCE_NO_DOCKER", "") not in ("", "0"):
        return False
    if not shutil.which("docker") or _output("docker", "info", timeout=3) is None:
        return False
    return _output("docker", "compose", "version", timeout=3) is not None
