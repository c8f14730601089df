"""Between a worker and the services: passes everything on until it is told to misbehave."""
import http.client
import http.server
import json
import threading


class Proxy:
    """Between a worker and the services; `fault` sees operation and reply and may change it."""

    def __init__(self, upstream):
        self.fault = lambda operation: None
        self.edit = lambda operation, body: body
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def serve(self):
                body = self.body()
                operation = self.headers.get("x-amz-target", "").rpartition(".")[2] or f"S3.{self.command}"
                refusal = proxy.fault(operation)
                if refusal:
                    return self.answer(refusal[0], {"Content-Type": "application/x-amz-json-1.1"}, refusal[1])
                connection = http.client.HTTPConnection("127.0.0.1", upstream, timeout=60)
                try:
                    headers = {k: v for k, v in self.headers.items()
                               if k.lower() not in ("expect", "connection", "transfer-encoding", "content-length")}
                    if body or self.command in ("PUT", "POST"):
                        headers["Content-Length"] = str(len(body))
                    connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in headers.items():
                        connection.putheader(name, value)
                    connection.endheaders(body)
                    reply = connection.getresponse()
                    data = proxy.edit(operation, reply.read())
                    kept = {k: v for k, v in reply.getheaders()
                            if k.lower() not in ("content-length", "transfer-encoding", "connection", "x-amz-crc32")}
                    self.answer(reply.status, kept, data, reply.getheader("content-length"))
                finally:
                    connection.close()

            def body(self):
                if self.headers.get("Expect", "").lower() == "100-continue":
                    self.send_response_only(100)
                    self.end_headers()
                if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                    parts = []
                    while size := int(self.rfile.readline().split(b";")[0], 16):
                        parts.append(self.rfile.read(size))
                        self.rfile.readline()
                    while self.rfile.readline().strip():
                        pass
                    return b"".join(parts)
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def answer(self, status, headers, data, length=None):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                head = self.command == "HEAD"
                self.send_header("Content-Length", length or "0" if head else str(len(data)))
                self.end_headers()
                if not head:
                    self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = serve

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):  # a worker that was killed
                pass
        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.port = self.server.server_address[1]

    def heal(self):
        self.fault, self.edit = lambda operation: None, lambda operation, body: body


def refuse(operation, status, kind):
    body = json.dumps({"__type": kind, "message": "by the check"}).encode()
    if operation.startswith("S3."):
        body = f"<Error><Code>{kind}</Code><Message>by the check</Message></Error>".encode()
    return lambda seen: (status, body) if seen == operation else None
