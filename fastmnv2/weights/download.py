"""Fetching the official weights over HTTPS."""

import dataclasses
import ipaddress
import os
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPMessage
from pathlib import Path
from typing import IO

from fastmnv2.errors import WeightsError
from fastmnv2.progress import progress
from fastmnv2.weights import read
from fastmnv2.weights.files import file_sha256
from fastmnv2.weights.fold import fold
from fastmnv2.weights.forms import hub
from fastmnv2.weights.tensors import Folded

LIMIT = 64 << 20  # bytes; the larger of the two files has about 6 MB
TIMEOUT = 10.0  # seconds without a byte


@dataclasses.dataclass(frozen=True)
class Remote:
    """A file that holds the weights. ``sha256`` is checked where it is known."""

    url: str
    sha256: str | None = None


# No copy of either file could be had when this was written, so their hashes are not known: the first release
# fills them in. Until then the structure is checked and the hash is recorded (see fastmnv2.info).
REMOTES = (
    Remote(hub.HANDLE + "?tf-hub-format=compressed"),
    Remote(
        "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.75_96_no_top.h5"
    ),
)


def remotes() -> tuple[Remote, ...]:
    """``REMOTES``, or the mirrors that ``FASTMNV2_URLS`` lists, separated by spaces."""
    mirrors = os.environ.get("FASTMNV2_URLS", "").split()
    return tuple(Remote(url) for url in mirrors) or REMOTES


def fetch() -> tuple[Folded | None, list[str]]:
    """The first of the remote files that arrives whole and proves to be this network, and what went wrong before."""
    failures: list[str] = []
    for remote in remotes():
        try:
            return _fetch_one(remote), failures
        except (WeightsError, ImportError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            failures.append(f"{remote.url}: {reason}")
    return None, failures


def _fetch_one(remote: Remote) -> Folded:
    _check_scheme(remote.url)
    with tempfile.TemporaryDirectory(prefix="fastmnv2-") as scratch:
        path = Path(scratch, "download")
        with path.open("wb") as file:
            _copy(remote.url, file)
        digest = file_sha256(path)
        if remote.sha256 is not None and digest != remote.sha256:
            raise WeightsError(f"expected sha256 {remote.sha256}, got {digest}")
        folded = fold(read(path))
        # The file is gone when this returns: its arrays must not be views of it, and its name is the URL.
        tensors = {name: array.copy() for name, array in folded.tensors.items()}
    return dataclasses.replace(folded, tensors=tensors, origin=remote.url, sha256=digest, file="")


def _copy(url: str, file: IO[bytes]) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "fastmnv2"})
    with _opener().open(request, timeout=TIMEOUT) as answer:
        length = answer.headers.get("Content-Length")
        total = int(length) if length and length.isdigit() else None
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
    """HTTPS only, but for servers on this machine."""
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
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_SafeRedirects)
