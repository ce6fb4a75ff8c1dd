"""The three incidents of deploy/RUNBOOK.md, rehearsed: `localstack/stack drill dlq|opensearch-down|poison|all`.

Each begins with a worker at work, breaks something, shows what an operator sees and types, and ends when everything is well
again. Commands are shown as they are typed, with what they said; every line that begins with "ok" was checked.
"""
import json
import os
import shlex
import signal
import subprocess
import sys
import time

from lib import aws, install
from lib.provision import provision
from lib.showing import NotSo, Worker, check, eventually, line, step

FILES = 40


class Drill:
    def __init__(self):
        self.s3, self.sqs = aws.S3(), aws.Sqs()
        self.run = os.environ["STACK_RUN"]
        self.search = os.environ["OPENSEARCH_ENDPOINT"]
        self.world = provision(self.s3.endpoint)
        kept = {name: value for name, value in os.environ.items() if name not in ("WORKER_BIN", "REDRIVE_BIN")}
        self.environment = kept | self.world | {
            "AWS_ENDPOINT_URL": self.s3.endpoint, "ADMIN_LISTEN": "off", "LOG_FORMAT": "json", "DRAIN_TIMEOUT": "5",
            "SQS_VISIBILITY_TIMEOUT": "20", "FAILED_RETRY_BASE_BACKOFF_SECONDS": "1",
            "FAILED_RETRY_MAX_BACKOFF_SECONDS": "2"}
        self.workers, self.worker = 0, None

    # ---- tools

    def start(self, **settings):
        """A worker with these settings, ready."""
        self.workers += 1
        environment = self.environment | settings
        self.worker = Worker(os.environ["WORKER_BIN"], environment, os.path.join(self.run, f"worker-{self.workers}.log"))
        self.worker.start()
        eventually("the worker's ready line", lambda: (bool(self.worker.facts("ready")), None), 30, self.worker)

    def stop(self):
        code, _ = self.worker.stop(60)
        check(code == 0, "the worker stopped, exit 0")

    def types(self, *words, codes=(0,), shown=12):
        """What the operator types, and what it says."""
        line("$ redrive " + " ".join(shlex.quote(word) for word in words))
        done = subprocess.run([os.environ["REDRIVE_BIN"], *words], env=self.environment, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=180)
        said = done.stdout.decode(errors="replace")
        for text in said.splitlines()[:shown]:
            line("  | " + text[:150])
        if done.returncode not in codes:
            raise NotSo(f"redrive {' '.join(words)}: exit {done.returncode}: {said[-400:]} {done.stderr.decode()[-400:]}")
        return said

    def upload(self, prefix, number=FILES):
        texts = {f"{prefix}/{n:03}.txt": f"The {prefix} number {n} was kept: {prefix}-{n:03}.\n".encode() for n in range(number)}
        for key, text in texts.items():
            self.s3.put(self.world["SOURCE_BUCKETS"], key, text)
        return texts

    def depth(self, queue, wanted, seconds=60):
        url = self.world[queue]
        eventually(f"{queue} at {wanted}", lambda: ((depth := self.sqs.depth(url)) == wanted, depth), seconds, self.worker)

    def found(self, keys, seconds=60):
        """All of these keys, and nothing else of their prefixes, are found."""
        def probe():
            aws.http("POST", f"{self.search}/files/_refresh")
            body = json.dumps({"size": 1000, "_source": ["key"], "query": {"terms": {"key": sorted(keys)}}}).encode()
            hits = json.loads(aws.http("POST", f"{self.search}/files-search/_search", body,
                                       {"Content-Type": "application/json"}))["hits"]["hits"]
            seen = {hit["_source"]["key"] for hit in hits}
            return seen == set(keys), f"{len(seen)} of {len(keys)}"
        eventually("every file is found", probe, seconds, self.worker)
        check(True, f"{len(keys)} of {len(keys)} files are found")

    def markers(self, prefix):
        return self.s3.list(self.world["S3_BUCKET"], prefix)

    def opensearch(self, command):
        if subprocess.run([os.path.join(install.HERE, "stack"), command], check=False).returncode != 0:
            raise NotSo(f"localstack/stack {command} failed")

    # ---- the incidents

    def dlq(self):
        step(f"dlq: a release that can read nothing dead-letters {FILES} files")
        self.start(MAX_OBJECT_BYTES="1")
        files = self.upload("contracts")
        self.depth("SQS_QUEUE_URL", (0, 0, 0))
        self.depth("SQS_DLQ_URL", (FILES, 0, 0))
        check(True, f"{FILES} letters in the dead-letter queue: the alarm dlq-not-empty")
        self.stop()
        step("dlq: what is it, and what would a drain do? Nothing is received but for the sample")
        said = self.types("plan", "--sample", "10")
        check("too_large: resend" in said, "the reason is too_large, and they would be sent back")
        self.types("trace", "s3://" + self.world["SOURCE_BUCKETS"] + "/contracts/000.txt", codes=(0, 3), shown=8)
        step("dlq: the good release is back; the drain")
        self.start()
        said = self.types("--batch-size", "50", "--json")
        report = json.loads(said)
        check(report["adds_up"] and report["resent"] == FILES, f"{FILES} sent back, the columns add up")
        self.depth("SQS_DLQ_URL", (0, 0, 0))
        self.depth("SQS_QUEUE_URL", (0, 0, 0))
        self.found(files)
        audit = self.markers(f"redrive/{report['run_id']}/")
        check(len(audit) >= 2, f"{len(audit)} parts of the audit under redrive/{report['run_id']}/")
        self.stop()

    def opensearch_down(self):
        step("opensearch-down: search goes away while files arrive")
        self.start()
        self.opensearch("stop-opensearch")
        files = self.upload("reports")
        self.depth("SQS_QUEUE_URL", (0, 0, 0))
        check(len(self.markers("retry-index/")) == FILES, f"the queue is empty all the same; {FILES} documents are parked")
        self.depth("SQS_DLQ_URL", (0, 0, 0))
        step("opensearch-down: what the operator sees")
        self.types("parked", "--list", shown=6)
        code, said = self.worker.command("check")
        told = [text for text in said.splitlines() if text.startswith("FAIL")]
        for text in told:
            line("  | " + text[:150])
        check(code == 1 and any("network_search" in text and "refuses connections" in text for text in told),
              "worker check: the port is closed, and everything else is well")
        step("opensearch-down: search comes back; the workers replay by themselves")
        self.opensearch("start-opensearch")
        self.found(files)
        eventually("no marker is left", lambda: (not (left := self.markers("retry-index/")), left), 60, self.worker)
        check(True, "nothing is parked any more")
        self.stop()

    def poison(self):
        step("poison: what can never be done arrives among good files")
        self.start(MAX_ATTEMPTS="2", RETRY_BASE_SECONDS="1")
        files = self.upload("invoices", 10)
        bodies = ["{not even JSON", json.dumps({"bucket": "somebody-elses", "key": "secret.txt"})]
        for body in bodies:
            self.sqs.send(self.world["SQS_QUEUE_URL"], body)
        self.depth("SQS_QUEUE_URL", (0, 0, 0))
        self.depth("SQS_DLQ_URL", (2, 0, 0))
        self.found(files)
        check(True, "the good files are done; the two are in the dead-letter queue")
        step("poison: whose is it, and why?")
        said = self.types("inspect", "--sample", "10", shown=20)
        check("malformed" in said and "not_allowed" in said, "malformed, and not_allowed")
        step("poison: the drain sends none of them round again: they are archived, whole")
        report = json.loads(self.types("--batch-size", "50", "--json"))
        check((report["archived"], report["resent"]) == (2, 0), "2 archived, none sent back")
        self.depth("SQS_DLQ_URL", (0, 0, 0))
        said = self.types("archive", "list", "--reason", "malformed", "--json")
        check("malformed" in said, "the archive has it, with its reason")
        step("poison: the sender was mended; the way back from the archive")
        self.types("archive", "restore", "--reason", "not_allowed")
        self.depth("SQS_QUEUE_URL", (0, 0, 0))
        self.depth("SQS_DLQ_URL", (1, 0, 0))
        check(True, "it was tried again, and is a dead letter again: nothing goes round by itself")
        self.stop()


DRILLS = {"dlq": Drill.dlq, "opensearch-down": Drill.opensearch_down, "poison": Drill.poison}


def main(arguments):
    if len(arguments) != 1 or arguments[0] not in (*DRILLS, "all"):
        print(__doc__, file=sys.stderr)
        return 64
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda signum, _: sys.exit(128 + signum))
    began, drill = time.monotonic(), None
    try:
        drill = Drill()
        code, said = Worker(os.environ["WORKER_BIN"], drill.environment, os.devnull).command("setup-index")
        check(code == 0, "queues, buckets, index are there", said[-300:])
        for name in DRILLS if arguments[0] == "all" else arguments:
            DRILLS[name](drill)
    except (NotSo, aws.Refused, OSError, KeyError, ValueError, subprocess.SubprocessError) as failure:
        sys.stdout.flush()
        if drill and drill.worker:
            print(f"\n---- the end of the worker's log\n{drill.worker.tail()}----", file=sys.stderr)
        print(f"\ndrill: FAILED: {type(failure).__name__}: {failure}", file=sys.stderr, flush=True)
        return 1
    finally:
        if drill and drill.worker:
            drill.worker.kill()
    step(f"Done: everything that was shown was checked ({time.monotonic() - began:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
