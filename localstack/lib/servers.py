"""LocalStack and OpenSearch as processes of their own: start, wait until healthy, stop, start again.

Promises: loopback only, free ports, all files under the run folder, nothing of the caller's AWS or Python
environment inside them; a server that does not come up is reported with the tail of its log.
"""
import json
import os
import random
import signal
import socket
import subprocess
import time
import urllib.request

from . import find, install, keeper

START_DEADLINE = 180  # seconds; 2 and 8 on an idle machine


class ServerFailed(Exception):
    """One line: which server, what happened."""


def free_port():
    """Below the range from which outgoing connections take theirs, so that it is still free at a second start."""
    for _ in range(200):
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise ServerFailed("no free port on 127.0.0.1 between 20000 and 32000")


def get_json(url, timeout=2.0):
    """The JSON at a loopback address, or None. Never through a proxy."""
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=timeout) as reply:
            return json.load(reply)
    except (OSError, ValueError):
        return None


def _plain_environment():
    hidden = ("AWS_", "PYTHON", "LOCALSTACK", "OPENSEARCH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)}


class Server:
    """One server; subclasses say how it is started and when it is healthy."""
    name = "?"

    def __init__(self, run):
        self.folder = os.path.join(run, self.name.lower())
        self.log = os.path.join(run, f"{self.name.lower()}.log")
        self.port = free_port()
        self.process = None
        os.makedirs(self.folder)

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def command(self):
        raise NotImplementedError

    def healthy(self):
        raise NotImplementedError

    def start(self):
        command, environment, folder = self.command()
        with open(self.log, "ab") as log:
            # A session of its own: Ctrl-C is for the command; the server is needed until that has ended.
            self.process = subprocess.Popen(
                command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=keeper.die_with_parent(signal.SIGKILL))

    def wait_healthy(self):
        deadline = time.monotonic() + START_DEADLINE
        while not self.healthy():
            if self.process.poll() is not None:
                if "in use" in self.tail() and time.monotonic() < deadline:  # somebody was quicker: another port
                    self.port = free_port()
                    self.start()
                    continue
                raise ServerFailed(f"{self.name} ended at start ({self.how_it_ended()})")
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self.name} is not healthy after {START_DEADLINE} s")
            time.sleep(0.1)
        if self.process.poll() is not None:  # then it was somebody else who answered
            raise ServerFailed(f"{self.name} ended at start ({self.how_it_ended()})")

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def stop(self, signum=signal.SIGTERM):
        if self.alive():
            self.process.send_signal(signum)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def freeze(self, on):
        """Stops it in the middle of whatever it does, or lets it go on."""
        self.process.send_signal(signal.SIGSTOP if on else signal.SIGCONT)

    def discard(self):
        """The run is over and so is its state: no time is given."""
        self.stop(signal.SIGKILL)

    def how_it_ended(self):
        code = self.process.returncode
        return f"exit {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"

    def tail(self, lines=30):
        try:
            with open(self.log, encoding="utf-8", errors="replace") as log:
                return "".join(log.readlines()[-lines:])
        except OSError:
            return ""


class LocalStack(Server):
    name = "LocalStack"
    SERVICES = ("s3", "sqs", "cloudformation", "iam", "sts")  # the last three for deploy/stack.yaml

    def __init__(self, run, python):
        super().__init__(run)
        self.python = python

    def command(self):
        home, tmp = (os.path.join(self.folder, name) for name in ("home", "tmp"))
        os.makedirs(home, exist_ok=True)
        os.makedirs(tmp, exist_ok=True)
        environment = _plain_environment() | {
            "HOME": home, "TMPDIR": tmp, "FILESYSTEM_ROOT": os.path.join(self.folder, "fs"),
            "SERVICES": ",".join(self.SERVICES), "EAGER_SERVICE_LOADING": "1", "STRICT_SERVICE_LOADING": "1",
            "GATEWAY_LISTEN": f"127.0.0.1:{self.port}", "LOCALSTACK_HOST": f"127.0.0.1:{self.port}",
            "SQS_ENDPOINT_STRATEGY": "path", "SKIP_SSL_CERT_DOWNLOAD": "1", "DISABLE_EVENTS": "1",
            "DNS_ADDRESS": "0", "PERSISTENCE": "0", "LS_LOG": "warn", "PYTHONDONTWRITEBYTECODE": "0"}
        # -P: nothing of our own folder may hide a module that LocalStack imports
        return [self.python, "-P", os.path.join(install.HERE, "run_localstack.py")], environment, self.folder

    def healthy(self):
        health = get_json(self.endpoint + "/_localstack/health")
        services = (health or {}).get("services", {})
        return all(services.get(name) == "running" for name in self.SERVICES)


class OpenSearch(Server):
    """A single node on the layout of lib/install.py; what was learnt about it is in the comments."""
    name = "OpenSearch"
    HEAP = ["-Xms256m", "-Xmx512m"]

    def __init__(self, run, java, home, settings=()):
        super().__init__(run)
        self.java, self.home, self.settings = java, home, settings

    def _configure(self):
        # Rewritten at each start. The folder must be writable: the node puts its keystore there.
        for name in ("config", "data", "logs", "tmp"):
            os.makedirs(os.path.join(self.folder, name), exist_ok=True)
        self.cluster = f"quittance-{self.port}-{os.getpid()}"
        with open(os.path.join(self.folder, "config", "opensearch.yml"), "w", encoding="utf-8") as file:
            file.write("\n".join((
                f"cluster.name: {self.cluster}", "node.name: node",
                f"path.data: {json.dumps(os.path.join(self.folder, 'data'))}",
                f"path.logs: {json.dumps(os.path.join(self.folder, 'logs'))}",
                "network.host: 127.0.0.1", f"http.port: {self.port}", "transport.port: 0",
                "discovery.type: single-node", "cluster.routing.allocation.disk.threshold_enabled: false",
                "bootstrap.memory_lock: false", "node.processors: 2", *self.settings, "")))
        with open(os.path.join(self.folder, "config", "log4j2.properties"), "w", encoding="utf-8") as file:
            file.write("""status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d{ISO8601}][%-5p][%-25c{1.}] [%node_name]%marker %m%n
rootLogger.level = ${sys:os.log.level:-info}
rootLogger.appenderRef.console.ref = console
logger.natives.name = org.opensearch.bootstrap.Natives
logger.natives.level = error
logger.merge.name = org.opensearch.index.MergeSchedulerConfig
logger.merge.level = warn
""")

    def command(self):
        self._configure()
        version = install.opensearch_version()
        flags = [
            *self.HEAP, "-Xss1m", "-XX:MaxDirectMemorySize=256m", "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",  # C1 only: half the CPU of a start
            "-XX:+ExitOnOutOfMemoryError", f"-XX:ErrorFile={self.folder}/logs/hs_err_pid%p.log",
            f"-Djava.io.tmpdir={self.folder}/tmp", "-Djava.awt.headless=true", "-Dfile.encoding=UTF-8",
            "-Djava.locale.providers=SPI,CLDR",
            # from the distribution's own JvmOptionsParser and jvm.options
            "-Djna.nosys=true", "-Dio.netty.noUnsafe=true", "-Dio.netty.noKeySetOptimization=true",
            "-Dio.netty.recycler.maxCapacityPerThread=0", "-Dio.netty.allocator.numDirectArenas=0",
            "-Dlog4j.shutdownHookEnabled=false", "-Dlog4j2.disable.jmx=true",
            "-Dopensearch.networkaddress.cache.ttl=60", "-Dopensearch.networkaddress.cache.negative.ttl=10",
            "-Dorg.apache.lucene.store.MMapDirectory.sharedArenaMaxPermits=1",
            "--add-opens=java.base/java.nio=ALL-UNNAMED", "--enable-native-access=ALL-UNNAMED"]
        if os.getuid() == 0:
            # "can not run opensearch as root": that check needs JNA; without it the data may stay in a private folder
            flags += ["-Djna.nounpack=true", "-Djna.boot.library.path=/nonexistent"]
        agent = f"{self.home}/agent/opensearch-agent-bootstrap-{version}.jar"  # needed where no -javaagent is given
        return [self.java, *flags, f"-Dopensearch.path.home={self.home}",
                f"-Dopensearch.path.conf={self.folder}/config", "-Dopensearch.distribution.type=zip",
                "-Dopensearch.bundled_jdk=false", "-cp", f"{self.home}/lib/*:{agent}",
                "org.opensearch.bootstrap.OpenSearch"], _plain_environment(), self.home

    def healthy(self):
        health = get_json(self.endpoint + "/_cluster/health")
        return bool(health) and health.get("cluster_name") == self.cluster and health.get("status") != "red"


def local_servers(run, with_search):
    """LocalStack, and OpenSearch if wanted; installs what is not there yet."""
    servers = {"localstack": LocalStack(run, install.localstack())}
    if with_search:
        java = find.java()
        if not java:
            raise find.Missing(find.no_java())
        servers["opensearch"] = OpenSearch(run, java, install.opensearch())
    return servers
