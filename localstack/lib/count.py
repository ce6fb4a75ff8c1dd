"""A reverse proxy on loopback that counts calls: what the worker costs, as seen from outside of it.

Promises to pass requests on unchanged (the Host header too) and to count each one that was answered: SQS by
operation, S3 by method and bucket. It buffers bodies, so it is for small files. Only for the demo's --count.
"""
import collections
import http.client
import http.server
import threading
import urllib.parse


class Counter:
    """`endpoint` is what the worker is given; `calls` is (service, what) -> number."""

    def __init__(self, upstream):
        self.calls, self._lock = collections.Counter(), threading.Lock()
        counter, target = self, urllib.parse.urlsplit(upstream)
        kept = threading.local()  # one connection upstream per connection of the worker

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_):
                pass

            def body(self):
                if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                    parts = []
                    while size := int(self.rfile.readline().split(b";")[0], 16):
                        parts.append(self.rfile.read(size))
                        self.rfile.readline()
                    while self.rfile.readline().strip():  # trailers
                        pass
                    return b"".join(parts)
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def pass_on(self):
                body = self.body()
                headers = {name: value for name, value in self.headers.items()
                           if name.lower() not in ("connection", "transfer-encoding", "content-length", "expect")}
                if body or self.command in ("PUT", "POST"):
                    headers["Content-Length"] = str(len(body))
                if getattr(kept, "to", None) is None:
                    kept.to = http.client.HTTPConnection(target.hostname, target.port, timeout=120)
                try:
                    kept.to.request(self.command, self.path, body or None, headers)
                    reply = kept.to.getresponse()
                    text = reply.read()
                except (OSError, http.client.HTTPException):
                    kept.to.close()
                    kept.to = None
                    self.close_connection = True  # the worker sees what it would have seen: a broken connection
                    return
                counter.count(self)
                self.send_response_only(reply.status, reply.reason)
                for name, value in reply.getheaders():
                    if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                        self.send_header(name, value)
                length = reply.getheader("Content-Length") if self.command == "HEAD" else str(len(text))
                if length is not None and reply.status != 304:
                    self.send_header("Content-Length", length)
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_):
                pass  # the worker closed a connection

        self._server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def count(self, request):
        operation = request.headers.get("X-Amz-Target", "")
        if operation.startswith("AmazonSQS."):
            what = ("SQS", operation.removeprefix("AmazonSQS."))
        else:
            url = urllib.parse.urlsplit(request.path)
            bucket, _, key = url.path.lstrip("/").partition("/")
            what = ("S3", f"{request.command} {bucket}" + ("" if key else " (the bucket)"))
        with self._lock:
            self.calls[what] += 1

    def snapshot(self):
        with self._lock:
            return collections.Counter(self.calls)
