"""The main job, shown and checked: `localstack/stack demo` runs this beside a stack of its own.

Every line that begins with "ok" was checked against S3, SQS, OpenSearch or the worker's log; what is not so ends
the demo with a message, the tail of the worker's log and exit 1. Without OpenSearch it shows parking instead.
Option --count: also the calls that the worker makes, counted by a proxy in front of LocalStack.
"""
import concurrent.futures
import json
import os
import re
import signal
import subprocess
import sys
import time

from lib import aws, install
from lib.count import Counter
from lib.provision import TEST_EVENTS, provision
from lib.showing import NotSo, Worker, check, eventually, line, step

SAMPLES = os.path.join(install.HERE, "samples")
MAX_OBJECT_BYTES = 256 << 10  # low, so that a small file is too large
DRAIN_TIMEOUT = 10
MALFORMED = '{"this is": "not an event", "and not even JSON'


def squeezed(text):
    """Without white space: where a format breaks its lines is not what is shown."""
    return re.sub(r"\s+", "", text)


class Demo:
    def __init__(self, counted):
        self.search = os.environ.get("OPENSEARCH_ENDPOINT")
        self.s3, self.sqs = aws.S3(), aws.Sqs()
        self.run = os.environ["STACK_RUN"]
        self.counter = Counter(self.s3.endpoint) if counted else None
        with open(os.path.join(SAMPLES, "expected.json"), encoding="utf-8") as file:
            self.samples = json.load(file)
        self.world, self.worker = {}, None
        self.files = 0          # uploaded in all
        self.main_job = (0, 1)  # files and seconds of the first batch
        self.calls = {}

    # ---- tools

    def upload(self, files):
        """key -> bytes, eight at a time"""
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda item: self.s3.put(self.world["SOURCE_BUCKETS"], *item), files.items()))
        self.files += len(files)

    def sample(self, kind):
        """key -> bytes of the good or the broken samples"""
        files = {}
        for key, one in self.samples[kind].items():
            with open(os.path.join(SAMPLES, one["file"]), "rb") as file:
                files[key] = file.read()
        return files

    def query(self, path, body=None):
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
        kind = "application/x-ndjson" if isinstance(body, bytes) else "application/json"
        return json.loads(aws.http("POST" if data else "GET", f"{self.search}/{path}", data, {"Content-Type": kind}))

    def find(self, queries):
        """The documents that each query finds through the read alias (without their content)."""
        aws.http("POST", f"{self.search}/files/_refresh")
        lines = []
        for query in queries:
            lines += ["{}", json.dumps({"query": query, "_source": {"excludes": ["content"]}, "size": 5})]
        answers = self.query("files-search/_msearch", ("\n".join(lines) + "\n").encode())["responses"]
        return [[hit["_source"] for hit in answer["hits"]["hits"]] for answer in answers]

    def found(self, wanted, field="content"):
        """Waits until each phrase finds its key and nothing else; wanted is key -> phrase. Returns key -> document."""
        kind = "match_phrase" if field == "content" else "term"

        def probe():
            hits = self.find([{kind: {field: phrase}} for phrase in wanted.values()])
            right = {key: found[0] for key, found in zip(wanted, hits)
                     if len(found) == 1 and found[0].get("key") == key}
            missing = [(key, [one.get("key") for one in found]) for key, found in zip(wanted, hits) if key not in right]
            return not missing, right if not missing else f"{len(missing)} not found as they should be: {missing[:3]}"

        return eventually(f"each of {len(wanted)} phrases finds its file", probe, 60, self.worker)

    def emptied(self, seconds=60):
        """Waits until nothing is visible, in flight or delayed."""
        queue = self.world["SQS_QUEUE_URL"]
        eventually("the queue is empty (visible, in flight, delayed)",
                   lambda: ((depth := self.sqs.depth(queue)) == (0, 0, 0), depth), seconds, self.worker)

    def named(self, keys):
        """Keys of the source bucket as the worker names them, with or without the bucket in front."""
        return [key.removeprefix(self.world["SOURCE_BUCKETS"] + "/") for key in keys or []]

    def settled(self, keys):
        """Waits for the settlement line of each key; returns key -> fact."""
        def probe():
            facts = {key: fact for fact in self.worker.facts("message_settled")
                     for key in self.named(fact.get("keys")) if key in keys}
            return len(facts) == len(keys), facts
        return eventually(f"a message_settled line for each of {len(keys)} files", probe, 60, self.worker)

    def parked(self):
        """key -> marker of what waits under retry-index/"""
        bucket = self.world["S3_BUCKET"]
        markers = [(at, json.loads(self.s3.get(bucket, at))) for at in self.s3.list(bucket, "retry-index/")]
        return {marker["key"]: (at, marker) for at, marker in markers}

    # ---- the steps

    def provision(self):
        step("Queues, buckets, notification, roles from deploy/stack.yaml" + (", index" if self.search else ""))
        began = time.monotonic()
        world = self.world = provision(self.s3.endpoint)
        check(True, f"CloudFormation made its data plane in {time.monotonic() - began:.1f} s")
        attributes = self.sqs.attributes(world["SQS_QUEUE_URL"])
        policy = json.loads(attributes["RedrivePolicy"])
        check(policy["deadLetterTargetArn"] == self.sqs.arn(world["SQS_DLQ_URL"]) and policy["maxReceiveCount"] == 20,
              f"queue quittance -> DLQ quittance-dlq after {policy['maxReceiveCount']} receives")
        eventually("S3's test events",
                   lambda: ((depth := self.sqs.depth(world["SQS_QUEUE_URL"])) == (TEST_EVENTS, 0, 0), depth), 10)
        check(True, f"bucket {world['SOURCE_BUCKETS']} notifies it (its test events are there); "
                    f"results go to {world['S3_BUCKET']}")
        kept = {name: value for name, value in os.environ.items() if name not in ("WORKER_BIN",)}
        environment = kept | world | {
            "AWS_ENDPOINT_URL": self.counter.endpoint if self.counter else self.s3.endpoint,
            "MAX_OBJECT_BYTES": str(MAX_OBJECT_BYTES), "DRAIN_TIMEOUT": str(DRAIN_TIMEOUT),
            "FAILED_RETRY_BASE_BACKOFF_SECONDS": "1", "FAILED_RETRY_MAX_BACKOFF_SECONDS": "2",
            "ADMIN_LISTEN": "off", "LOG_FORMAT": "json", "LOG_LEVEL": "info"}
        environment |= {} if self.search else {"SKIP_OPENSEARCH": "true"}
        self.worker = Worker(os.environ["WORKER_BIN"], environment, os.path.join(self.run, "worker.log"))
        if self.search:
            code, said = self.worker.command("setup-index")
            for text in said.splitlines()[:5]:
                line(f"setup-index: {text[:160]}")
            check(code == 0, "worker setup-index ends well", f"exit {code}: {said[-500:]}")
            aliases = {alias for index in self.query("_alias").values() for alias in index["aliases"]}
            check({"files", "files-search"} <= aliases, "index behind the aliases files and files-search", str(aliases))

    def start(self):
        step("The worker starts")
        self.worker.start()
        eventually("the worker's ready line", lambda: (bool(self.worker.facts("ready")), None), 30, self.worker)
        check(True, f"ready (pid {self.worker.process.pid})")

    def main(self):
        files = self.sample("good")
        formats = sorted({one["format"] for one in self.samples["good"].values()})
        step(f"{len(files)} files of {len(formats)} formats are uploaded: {', '.join(formats)}")
        before, began = self.counter and self.counter.snapshot(), time.monotonic()
        self.upload(files)
        self.emptied()
        facts = self.settled(files)
        seconds = time.monotonic() - began
        self.main_job = (len(files), seconds)
        if self.counter:
            self.calls = self.counter.snapshot() - before
        check(all(fact["outcome"] == "done" and fact["settlement"] == "deleted" for fact in facts.values()),
              f"{len(files)} messages done and deleted, the queue is empty, after {seconds:.1f} s",
              str([fact for fact in facts.values() if fact["outcome"] != "done"][:2]))
        check(not any(self.sqs.depth(self.world["SQS_DLQ_URL"])), "the DLQ is empty")
        records = self.s3.list(self.world["S3_BUCKET"], "processed/default/")
        check(len(records) == len(files), f"{len(records)} records in s3://{self.world['S3_BUCKET']}/processed/default/")
        if not self.search:
            return self.parked_instead(files, facts)
        step("They are found, each by a phrase of its content")
        documents = self.found({key: one["phrase"] for key, one in self.samples["good"].items()})
        for key, one in self.samples["good"].items():
            document = documents[key]
            line(f"{one['format']:<9}{one['phrase']:<30} -> {key}")
            for name, value in (("mime_type", one["mime_type"]), ("size", len(files[key])), ("deleted", False),
                                ("bucket", self.world["SOURCE_BUCKETS"])):
                if document.get(name, False) != value:
                    raise NotSo(f"{key}: {name} is {document.get(name)!r}, not {value!r}")
        check(not any(document.get("extraction_error") for document in documents.values()),
              f"{len(documents)} of {len(files)} found through files-search; type, size and bucket are right")

    def parked_instead(self, files, facts):
        step("No OpenSearch here: their documents are parked, nothing is lost")
        check(all(fact["index"] == "parked" for fact in facts.values()), "every message was deleted with index=parked")
        markers = self.parked()
        check(set(markers) == set(files), f"{len(markers)} markers under retry-index/, one for each file")
        contents = [squeezed(json.dumps(json.loads(self.s3.get(self.world["S3_BUCKET"], at)), ensure_ascii=False))
                    for at in self.s3.list(self.world["S3_BUCKET"], "processed/default/")]
        lost = [one["phrase"] for one in self.samples["good"].values()
                if sum(squeezed(one["phrase"]) in content for content in contents) != 1]
        check(not lost, f"{len(files)} records, and each phrase is in exactly one of them", str(lost[:3]))

    def outage(self):
        step("OpenSearch is stopped, more files are uploaded")
        self.opensearch("stop-opensearch")
        try:
            self.query("_cluster/health")
            raise NotSo("OpenSearch answers although it was stopped")
        except OSError:
            check(True, f"OpenSearch is gone: {self.search} refuses connections")
        phrases = {f"outage/夜間 {n}/log + {n}.txt": f"stormproof barometer {word}" for n, word in
                   enumerate(("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel"), 1)}
        self.upload({key: f"Kept through the night.\nThe {phrase} held.\n".encode() for key, phrase in phrases.items()})
        facts = self.settled(phrases)
        self.emptied()
        check(all(fact["settlement"] == "deleted" and fact["index"] == "parked" for fact in facts.values()),
              f"the queue still empties: {len(facts)} messages deleted, index=parked",
              str([fact for fact in facts.values() if fact.get("index") != "parked"][:2]))
        markers = self.parked()
        check(set(markers) == set(phrases), f"{len(markers)} documents are parked", f"markers: {sorted(markers)}")
        at, marker = markers[min(markers)]
        line(f"for example {at}")
        line(f"            {json.dumps(marker, ensure_ascii=False)[:200]}")
        step("OpenSearch returns")
        self.opensearch("start-opensearch")
        self.found(phrases)
        check(True, f"{len(phrases)} of {len(phrases)} are replayed and found")
        eventually("retry-index/ is empty", lambda: (not (left := self.parked()), sorted(left)), 60, self.worker)
        check(not self.s3.list(self.world["S3_BUCKET"], "errored-index/"), "retry-index/ and errored-index/ are empty")

    def opensearch(self, command):
        done = subprocess.run([os.path.join(install.HERE, "stack"), command], check=False)
        if done.returncode != 0:
            raise NotSo(f"localstack/stack {command} failed")

    def unreadable(self):
        step("Corrupt files are uploaded")
        files = self.sample("broken")
        self.upload(files)
        facts = self.settled(files)
        self.emptied()
        check(all(fact["outcome"] == "done" and fact["settlement"] == "deleted" for fact in facts.values()),
              f"{len(files)} messages done and deleted: a file that cannot be read is a finding, not a failure",
              str(list(facts.values())[:2]))
        if not self.search:
            return
        for key, document in self.found({key: key for key in files}, "key").items():
            error = document.get("extraction_error")
            check(error and document["size"] == len(files[key]), f"{key} is found by its name: {str(error)[:90]!r}",
                  f"its document: {document}")

    def dead_letters(self):
        step("A file over the size limit and a malformed message")
        large = "large/大きすぎる.txt"
        self.upload({large: b"x" * (MAX_OBJECT_BYTES + 1)})
        self.sqs.send(self.world["SQS_QUEUE_URL"], MALFORMED)
        dlq = self.world["SQS_DLQ_URL"]
        eventually("two messages in the DLQ", lambda: ((depth := self.sqs.depth(dlq))[0] == 2, depth), 60, self.worker)
        self.emptied()
        reasons = {}
        for message in self.sqs.receive_and_return(dlq, 2):
            attributes = message.get("MessageAttributes") or {}
            if "Quittance" not in attributes:
                raise NotSo(f"a message in the DLQ has no Quittance attribute: {message['Body'][:200]}")
            note = json.loads(attributes["Quittance"]["StringValue"])
            reasons[note["reason"]] = (note, message["Body"])
            line(f"DLQ: reason {note['reason']}, detail {note.get('detail')!r}, keys {note.get('keys')}")
        check(set(reasons) == {"too_large", "malformed"}, "they are in the DLQ with their reasons", str(set(reasons)))
        check(reasons["malformed"][1] == MALFORMED and large in self.named(reasons["too_large"][0].get("keys")),
              "the malformed body is unchanged, the large file is named", str(reasons))

    def drain(self):
        step("SIGTERM: the worker drains and prints its books")
        memory = self.worker.resident_mib()
        code, seconds = self.worker.stop(DRAIN_TIMEOUT + 25)  # an open long poll is let to end first
        check(code == 0, f"it ended after {seconds:.1f} s with exit code 0", f"exit code {code}")
        books = (self.worker.facts("books") or [{}])[-1]
        check(books.get("final") is True, "its last books are final", str(books))
        names = ("deleted", "dead_lettered", "returned", "lease_lost", "in_flight")
        line("received {received} = deleted {deleted} + dead_lettered {dead_lettered} + returned {returned}"
             " + lease_lost {lease_lost} + in_flight {in_flight}".format(**books))
        check(books["received"] == sum(books[name] for name in names), "messages balance")
        check(books["deleted"] == books["done"] + books["superseded"] + books["skipped"],
              f"deleted = done {books['done']} + superseded {books['superseded']} + skipped {books['skipped']}")
        ends = ("done", "superseded", "skipped", "retried", "rejected", "abandoned")
        changes = {name: books[f"changes_{name}"] for name in ends}
        check(books["changes_parsed"] == sum(changes.values()), f"changes balance: parsed {books['changes_parsed']} = "
              + " + ".join(f"{name} {number}" for name, number in changes.items()))
        offered = {name: books[f"documents_{name}"] for name in ("indexed", "parked", "failed")}
        check(books["documents_offered"] == sum(offered.values()), f"documents balance: offered "
              f"{books['documents_offered']} = " + " + ".join(f"{name} {number}" for name, number in offered.items()))
        # Against what was put in: S3's test events are skipped, every file and the malformed message have one settlement.
        true = (self.files - 1, TEST_EVENTS, 2, 0)
        check((books["done"], books["skipped"], books["dead_lettered"], books["in_flight"]) == true,
              f"and are true: {self.files} files and 1 malformed message were sent; {self.files - 1} done, 2 dead-lettered,"
              " S3's test events skipped", str(books))
        received, settled = (len(self.worker.facts(event)) for event in ("message_received", "message_settled"))
        check(received == settled == books["received"], f"{received} lines at receive, {settled} at settlement",
              f"books say {books['received']}")
        check(self.sqs.depth(self.world["SQS_QUEUE_URL"]) == (0, 0, 0), "the queue is empty")
        return memory

    def summary(self, began, memory):
        number, seconds = self.main_job
        step("Summary")
        line(f"{self.files} files in {time.monotonic() - began:.1f} s with all that was shown; the first {number} in "
             f"{seconds:.2f} s from the first upload to the last settlement: {number / seconds:.1f} files/s"
             + (f"; worker at most {memory:.0f} MiB" if memory else ""))
        if self.counter:
            line(f"calls of the worker for those {number} files, counted outside of it:")
            for (service, what), calls in sorted(self.calls.items()):
                line(f"  {service:<4}{what:<40}{calls:>5}  = {calls / number:.2f} per message")
        line("Everything that was shown was checked." if self.search
             else "Everything that was shown was checked. Search was not: OpenSearch is not here.")


def main(arguments):
    if arguments not in ([], ["--count"]):
        print(__doc__, file=sys.stderr)
        return 64
    began = time.monotonic()
    for signum in (signal.SIGINT, signal.SIGTERM):  # leave by the same door as a failure does
        signal.signal(signum, lambda signum, _: sys.exit(128 + signum))
    demo = Demo(counted=bool(arguments))
    step("The stack is up")
    line(f"LocalStack {demo.s3.endpoint}, OpenSearch {demo.search or 'not here: parking is shown instead'}")
    try:
        demo.provision()
        demo.start()
        demo.main()
        if demo.search:
            demo.outage()
        demo.unreadable()
        demo.dead_letters()
        memory = demo.drain()
    except (NotSo, aws.Refused, OSError, KeyError, ValueError, subprocess.SubprocessError) as failure:
        sys.stdout.flush()
        if demo.worker:
            print(f"\n---- the end of the worker's log\n{demo.worker.tail()}----", file=sys.stderr)
        kind = "" if isinstance(failure, NotSo) else f"{type(failure).__name__}: "
        print(f"\ndemo: FAILED: {kind}{failure}", file=sys.stderr, flush=True)
        return 1
    finally:
        if demo.worker:
            demo.worker.kill()
    demo.summary(began, memory)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
