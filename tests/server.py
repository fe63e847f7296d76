"""Local web servers with prepared answers."""

import contextlib
import http.server
import socket
import threading


class Server(http.server.ThreadingHTTPServer):
    """Answer from ``pages``, {path: (status, headers, body)}, and count requests."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages, self.asked = {}, []

    def url(self, path):
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        status, headers, body = self.server.pages.get(self.path, (404, {}, b"not here"))
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def raw_server(*parts, every=None):
    """The URL of a server that sends ``parts`` (bytes), and then repeats the last one every ``every`` seconds."""
    stop = threading.Event()

    def serve():
        while not stop.is_set():
            with contextlib.suppress(OSError), listener.accept()[0] as caller:
                caller.recv(4096)
                for part in parts:
                    caller.sendall(part)
                while every and not stop.wait(every):
                    caller.sendall(parts[-1])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/weights"
        stop.set()
        thread.join()
