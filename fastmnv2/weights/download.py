"""Download the official weights over HTTPS."""

import dataclasses
import functools
import http.client
import io
import ipaddress
import os
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from fastmnv2.core.errors import WeightsError, is_this_machines
from fastmnv2.core.network import DEFAULT, Network
from fastmnv2.core.progress import progress
from fastmnv2.weights import read
from fastmnv2.weights.files import file_sha256
from fastmnv2.weights.fold import fold
from fastmnv2.weights.forms import hub
from fastmnv2.weights.names import Published
from fastmnv2.weights.tensors import Folded

LIMIT = 64 << 20  # bytes in a file; the larger of the two default files has about 6 MB
TIMEOUT = 10.0  # seconds without receiving a byte
DEADLINE = 120.0  # seconds for one server, including redirections; 6 MB need 50 KB/s


@dataclasses.dataclass(frozen=True)
class Remote:
    """A file with weights on a server. ``sha256`` is checked if it is known."""

    url: str
    sha256: str | None = None


# No copy of either file was available, so their hashes are unknown until the first release fills them in. Until then
# only the structure is checked, and the hash is recorded (see fastmnv2.info).
REMOTES = (
    Remote(hub.HANDLE + "?tf-hub-format=compressed"),
    Remote(
        "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.75_96_no_top.h5"
    ),
)


def remotes() -> tuple[Remote, ...]:
    """``REMOTES``, or the mirrors that ``FASTMNV2_URLS`` lists, separated by spaces."""
    mirrors = [url for url in os.environ.get("FASTMNV2_URLS", "").split() if "{name}" not in url]
    return tuple(Remote(url) for url in mirrors) or REMOTES


def remotes_of(published: Published) -> tuple[Remote, ...]:
    """Remote files with published weights: mirrors whose URL contains {name}, or Google's if there is no mirror."""
    mirrors = [url for url in os.environ.get("FASTMNV2_URLS", "").split() if "{name}" in url]
    urls = [url.replace("{name}", published.name) for url in mirrors] or published.urls
    return tuple(map(Remote, urls))


def fetch(sources: tuple[Remote, ...] | None = None, network: Network = DEFAULT) -> tuple[Folded | None, list[str]]:
    """Download ``network``'s weights from the first server that works. Return them, or None, and why others failed.

    Args:
        sources: the remote files to try in order; None for ``remotes()``.
        network: the member of the family that the weights must be for.

    Raises:
        OSError: if this machine's disk is full or no more files can be opened.
        MemoryError: if this machine is out of memory.
    """
    failures: list[str] = []
    for remote in sources or remotes():
        try:
            return _fetch_one(remote, network), failures
        except MemoryError:
            raise
        except Exception as error:  # a server can make urllib raise almost anything
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if is_this_machines(reason):
                raise reason from None
            failures.append(f"{remote.url}: {_explained(reason)}")
    return None, failures


def _explained(reason: BaseException | str) -> str:
    text = str(reason) or type(reason).__name__
    ssl: Any = sys.modules.get("ssl")  # not imported, because Python may be built without it
    if ssl and isinstance(reason, ssl.SSLCertVerificationError):
        return (
            f"the server's certificate can't be verified ({reason.verify_message}); behind a proxy that decrypts "
            "traffic, or on a system without certificates, set SSL_CERT_FILE to the certificates to trust"
        )
    if ssl and isinstance(reason, ssl.SSLError):
        return f"no secure connection (TLS): {text}"
    if isinstance(reason, http.client.HTTPException):
        return f"the server's answer is not valid HTTP: {type(reason).__name__}: {text}"
    return text


def _fetch_one(remote: Remote, network: Network) -> Folded:
    _check_scheme(remote.url)
    with tempfile.TemporaryDirectory(prefix="fastmnv2-") as scratch:
        path = Path(scratch, "download")
        with path.open("wb") as file:
            _copy(remote.url, file)
        digest = file_sha256(path)
        if remote.sha256 is not None and digest != remote.sha256:
            raise WeightsError(f"expected sha256 {remote.sha256}, got {digest}")
        source = read(path)
        folded = fold(source if source.size else dataclasses.replace(source, size=network.size))
        if folded.network != network:
            raise WeightsError(f"expected {network.name}, got {folded.network.name}")
        # The file is deleted on return, so the arrays must not be views of it, and the URL is recorded as the origin.
        tensors = {name: array.copy() for name, array in folded.tensors.items()}
    return dataclasses.replace(folded, tensors=tensors, origin=remote.url, sha256=digest, file="")


def _copy(url: str, file: IO[bytes]) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "fastmnv2"})
    with _opener(time.monotonic() + DEADLINE).open(request, timeout=TIMEOUT) as answer:
        length = answer.headers.get("Content-Length", "")
        total = int(length) if length.isascii() and length.isdigit() else None
        if total is not None and total > LIMIT:
            raise WeightsError(f"expected at most {LIMIT} bytes, got {total}")
        done = 0
        with progress(f"downloading {url}", total, in_bytes=True) as advance:
            while chunk := answer.read(1 << 16):
                done += len(chunk)
                if done > LIMIT:
                    raise WeightsError(f"expected at most {LIMIT} bytes, got more")
                file.write(chunk)
                advance(done, total)
        if total is not None and done != total:
            raise WeightsError(f"expected {total} bytes, got {done}")


def _check_scheme(url: str) -> None:
    """Accept HTTPS only, except for servers on this machine."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if parts.scheme != "https" and not (parts.scheme == "http" and loopback):
        raise WeightsError(f"{url}: expected an https URL")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Until(io.RawIOBase):
    """Reads from a socket until a deadline. The socket's own timeout would restart with every byte."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        self._sock, self._until = sock, until
        self._file = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"expected the whole answer within {DEADLINE:.0f} s")
        self._sock.settimeout(min(left, TIMEOUT))
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, until: float, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_Until(sock, until))


def _opener(until: float) -> urllib.request.OpenerDirector:
    """An opener that stops reading at the time ``until`` (of ``time.monotonic``), in headers as well as in the body."""

    def connecting(kind: str) -> Callable[..., http.client.HTTPConnection]:
        def connect(host: str, **options: Any) -> http.client.HTTPConnection:
            if not hasattr(http.client, kind):
                raise WeightsError("this Python was built without TLS (the ssl module), so it can't use https")
            connection: http.client.HTTPConnection = getattr(http.client, kind)(host, **options)
            connection.response_class = functools.partial(_Response, until)  # type: ignore[assignment]
            return connection

        return connect

    class Plain(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(connecting("HTTPConnection"), req)

    # build_opener uses a subclass instead of the usual handler, which a Python without ssl lacks.
    usual: Any = getattr(urllib.request, "HTTPSHandler", urllib.request.AbstractHTTPHandler)

    class Secure(usual):  # type: ignore[misc]
        https_request = urllib.request.AbstractHTTPHandler.do_request_

        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            answer: http.client.HTTPResponse = self.do_open(connecting("HTTPSConnection"), req)
            return answer

    return urllib.request.build_opener(_SafeRedirects, Plain, Secure)
