"""Resolving "imagenet", "untrained" and TF-Hub URLs, and downloads from a server on this machine."""

import concurrent.futures
import errno
import gzip
import hashlib
import os
import shutil
import ssl
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from server import raw_server

import fastmnv2
from fastmnv2.core.errors import WeightsError, WeightsUnavailable
from fastmnv2.weights import cache as cache_module
from fastmnv2.weights import download
from fastmnv2.weights.fold import fold
from fastmnv2.weights.forms import hub, native
from fastmnv2.weights.resolve import resolve
from fastmnv2.weights.untrained import untrained


def same(a, b):
    return a.tensors.keys() == b.tensors.keys() and all(np.array_equal(a.tensors[k], b.tensors[k]) for k in a.tensors)


def test_downloaded_once_then_from_the_cache(server, cache, native_bytes, images, model):
    server.pages["/weights"] = 200, {}, native_bytes
    first = fastmnv2.load()
    assert np.array_equal(first.embed(images), model.embed(images))
    assert first.weights["origin"] == server.url("/weights")
    assert first.weights["sha256"] == hashlib.sha256(native_bytes).hexdigest()
    assert [path.name for path in cache.iterdir()] == ["imagenet.safetensors"]
    second = fastmnv2.load("imagenet")
    assert len(server.asked) == 1
    assert np.array_equal(second.embed(images), model.embed(images))
    assert second.weights["sha256"] == first.weights["sha256"]
    assert any(server.url("/weights") in note for note in second.weights["notes"])


def test_the_hub_archive_is_what_a_server_gives(server, tmp_path, images):
    from make_module import make_module

    module = make_module(tmp_path / "module", untrained().tensors)
    with tarfile.open(tmp_path / "module.tar.gz", "w:gz") as tar:
        tar.add(module, arcname=".")
    server.pages["/weights"] = 200, {}, (tmp_path / "module.tar.gz").read_bytes()
    assert np.array_equal(fastmnv2.load().embed(images), fastmnv2.load(module).embed(images))


BROKEN = {
    "not found": (404, {}, b""),
    "server error": (503, {}, b""),
    "not weights": (200, {}, b"<html>sign in to the hotel's network</html>"),
    "empty": (200, {}, b""),
    "too large, by its header": (200, {"Content-Length": str(download.LIMIT + 1)}, b"x"),
    "to another scheme": (302, {"Location": "file:///etc/hostname"}, b""),
    "to plain http elsewhere": (302, {"Location": "http://192.0.2.1/weights"}, b""),
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
def test_a_broken_download_leaves_nothing(server, cache, answer):
    server.pages["/weights"] = answer
    with pytest.raises(WeightsUnavailable, match="FASTMNV2_WEIGHTS") as caught:
        fastmnv2.load()
    assert server.url("/weights") in str(caught.value)
    assert not cache.exists() or not list(cache.iterdir())


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.999])
@pytest.mark.parametrize("announced", [True, False], ids=["full length announced", "short length announced"])
def test_a_truncated_download_leaves_nothing(server, cache, native_bytes, kept, announced):
    body = native_bytes[: int(len(native_bytes) * kept)]
    server.pages["/weights"] = 200, {"Content-Length": str(len(native_bytes if announced else body))}, body
    with pytest.raises(WeightsUnavailable):
        fastmnv2.load()
    assert not cache.exists() or not list(cache.iterdir())


def test_a_download_that_does_not_end_is_cut_off(server, monkeypatch, native_bytes):
    monkeypatch.setattr(download, "LIMIT", 1 << 20)
    server.pages["/weights"] = 200, {}, native_bytes
    with pytest.raises(WeightsUnavailable, match="at most 1048576 bytes"):
        fastmnv2.load()


def test_a_wrong_hash_is_refused(server, monkeypatch, native_bytes):
    server.pages["/weights"] = 200, {}, native_bytes
    monkeypatch.delenv("FASTMNV2_URLS")
    monkeypatch.setattr(download, "REMOTES", (download.Remote(server.url("/weights"), "0" * 64),))
    with pytest.raises(WeightsUnavailable, match="sha256"):
        fastmnv2.load()
    right = hashlib.sha256(native_bytes).hexdigest()
    monkeypatch.setattr(download, "REMOTES", (download.Remote(server.url("/weights"), right),))
    assert fastmnv2.load().weights["sha256"] == right


def test_the_second_server_is_tried_when_the_first_fails(server, monkeypatch, native_bytes):
    monkeypatch.setenv("FASTMNV2_URLS", f"{server.url('/gone')} {server.url('/weights')}")
    server.pages["/weights"] = 200, {}, native_bytes
    assert fastmnv2.load().weights["origin"] == server.url("/weights")
    assert server.asked == ["/gone", "/weights"]


OK = b"HTTP/1.1 200 OK\r\n"
BROKEN_ANSWERS = {
    "no status": [b"220 smtp ready\r\n"],
    "nothing": [b""],
    "half a body": [OK + b"Transfer-Encoding: chunked\r\n\r\n100\r\nhalf"],
    "no chunks": [OK + b"Transfer-Encoding: chunked\r\n\r\nmany\r\n"],
    "length in other digits": [OK + b"Content-Length: \xb2\r\n\r\nx"],
    "long line": [OK + b"X: " + b"x" * 70_000],
    "many headers": [OK + b"X: x\r\n" * 300 + b"\r\n"],
    "to no port": [b"HTTP/1.1 302 Found\r\nLocation: https://localhost:many/w\r\n\r\n"],
    "to no address": [b"HTTP/1.1 302 Found\r\nLocation: https://[::1/w\r\n\r\n"],
    "to no host": [b"HTTP/1.1 302 Found\r\nLocation: https://" + b"x" * 80 + b".example/\r\n\r\n"],
    "to an empty label": [b"HTTP/1.1 302 Found\r\nLocation: https://a..example/w\r\n\r\n"],
    "to control characters": [b"HTTP/1.1 302 Found\r\nLocation: https://localhost/\x7f\x01\r\n\r\n"],
    "to itself": [b"HTTP/1.1 302 Found\r\nLocation: /weights\r\nContent-Length: 0\r\n\r\n"],
}


@pytest.mark.parametrize("parts", BROKEN_ANSWERS.values(), ids=BROKEN_ANSWERS)
def test_after_any_broken_answer_the_next_server_is_asked(server, monkeypatch, native_bytes, parts):
    server.pages["/weights"] = 200, {}, native_bytes
    with raw_server(*parts) as url:
        monkeypatch.setenv("FASTMNV2_URLS", f"{url} {server.url('/weights')}")
        assert fastmnv2.load().weights["origin"] == server.url("/weights")


@pytest.mark.parametrize("url", ["https://[::1/w", "https://localhost:many/w", "https://a\tb/w", "https://" + "é" * 80])
def test_after_any_broken_url_the_next_server_is_asked(server, monkeypatch, native_bytes, url):
    server.pages["/weights"] = 200, {}, native_bytes
    monkeypatch.setenv("FASTMNV2_URLS", f"{url} {server.url('/weights')}")
    assert fastmnv2.load().weights["origin"] == server.url("/weights")


SLOW_ANSWERS = {
    "status": [b"H"],
    "header": [OK + b"X: ", b"x"],
    "continue": [b"HTTP/1.1 100 Continue\r\n\r\n"],
    "body": [OK + b"Content-Length: 5000000\r\n\r\n", b"x"],
    "chunks": [OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"],
}


@pytest.mark.parametrize("parts", SLOW_ANSWERS.values(), ids=SLOW_ANSWERS)
def test_a_very_slow_server_is_given_up(server, monkeypatch, native_bytes, parts):
    monkeypatch.setattr(download, "DEADLINE", 0.5)
    server.pages["/weights"] = 200, {}, native_bytes
    with raw_server(*parts, every=0.01) as url:
        monkeypatch.setenv("FASTMNV2_URLS", url)
        with pytest.raises(WeightsUnavailable, match=r"expected the whole answer within 0 s|timed out"):
            fastmnv2.load()  # the server would send forever


def test_a_failing_secure_connection_is_reported_as_one(server, monkeypatch, tmp_path):
    with raw_server(b"no TLS here") as url:
        monkeypatch.setenv("FASTMNV2_URLS", url.replace("http:", "https:"))
        with pytest.raises(WeightsUnavailable, match=r"no secure connection \(TLS\)"):
            fastmnv2.load()
    certificate, key = own_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    monkeypatch.setenv("FASTMNV2_URLS", server.url("/weights").replace("http:", "https:"))
    with pytest.raises(
        WeightsUnavailable, match=r"certificate can't be verified \(self.signed certificate\).*SSL_CERT_FILE"
    ):
        fastmnv2.load()


def own_certificate(folder):
    if not shutil.which("openssl"):
        pytest.skip("no openssl")
    files = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC])
def test_errors_of_this_machine_are_not_blamed_on_files_or_servers(
    server, cache, monkeypatch, tmp_path, native_bytes, untrained_native, number
):
    def lacking(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    server.pages["/weights"] = 200, {}, native_bytes
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.mkdtemp", lacking)
        with pytest.raises(OSError, match=os.strerror(number)):
            fastmnv2.load()
        (tmp_path / "a.tar.gz").write_bytes(gzip.compress(bytes(2048)))
        with pytest.raises(OSError, match=os.strerror(number)):
            fastmnv2.load(tmp_path / "a.tar.gz")
    cache.mkdir()
    shutil.copy(untrained_native, cache / "imagenet.safetensors")
    monkeypatch.setattr("fastmnv2.weights.files.open", lacking, raising=False)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        fastmnv2.load()
    assert "delete" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://192.0.2.1/w", "ftp://127.0.0.1/w", "file:///etc/hostname"])
def test_only_https_leaves_the_machine(monkeypatch, cache, url):
    monkeypatch.setenv("FASTMNV2_OFFLINE", "0")
    monkeypatch.setenv("FASTMNV2_URLS", url)
    with pytest.raises(WeightsUnavailable, match="expected an https URL"):
        fastmnv2.load()


def test_a_cache_that_can_not_be_written_is_no_failure(server, cache, native_bytes):
    cache.write_text("a file where the folder should be")
    server.pages["/weights"] = 200, {}, native_bytes
    with pytest.warns(UserWarning, match="FASTMNV2_CACHE_DIR"):
        fastmnv2.load()


def test_a_broken_cache_says_what_to_delete(cache):
    cache.mkdir()
    (cache / "imagenet.safetensors").write_bytes(b"half")
    with pytest.raises(WeightsError, match="delete"):
        fastmnv2.load()


def test_offline_names_the_three_ways_out(cache):
    with pytest.raises(WeightsUnavailable) as caught:
        fastmnv2.embed(np.zeros((1, 96, 96, 3), np.float32))
    for way in ("FASTMNV2_WEIGHTS", "fastmnv2 convert", "untrained", str(cache)):
        assert way in str(caught.value)
    assert not cache.exists()


def test_download_false_asks_no_server(server, cache, native_bytes):
    server.pages["/weights"] = 200, {}, native_bytes
    for name in (None, "imagenet", hub.HANDLE):
        with pytest.raises(WeightsUnavailable, match=r"download=False.*Three remedies"):
            fastmnv2.load(name, download=False)
    assert server.asked == []
    assert not cache.exists()
    fastmnv2.load()
    assert fastmnv2.load(download=False).weights["form"] == "native"  # it is in the cache now


def test_info_downloads_nothing(server, native_bytes):
    server.pages["/weights"] = 200, {}, native_bytes
    assert "download=False" in fastmnv2.info()["weights"]["error"]
    assert server.asked == []


def test_the_environment_names_the_weights(monkeypatch, untrained_native, images, model):
    monkeypatch.setenv("FASTMNV2_WEIGHTS", str(untrained_native))
    assert np.array_equal(fastmnv2.embed(images), model.embed(images))
    assert fastmnv2.info()["weights"]["origin"] == str(untrained_native)
    monkeypatch.setenv("FASTMNV2_WEIGHTS", "imagenet")
    with pytest.raises(WeightsError, match="FASTMNV2_WEIGHTS"):
        fastmnv2.load()


def test_info_leaves_the_environment_alone(server, native_bytes):
    """Threads that temporarily set FASTMNV2_OFFLINE at the same time must not leave it set."""
    server.pages["/weights"] = 200, {}, native_bytes
    before = dict(os.environ)
    changes = []

    def watch(event, args):
        if event in ("os.putenv", "os.unsetenv"):
            changes.append(args)

    sys.addaudithook(watch)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: fastmnv2.info()["weights"]["error"], range(40)))
    assert all("download=False" in error for error in found)
    assert not changes
    assert dict(os.environ) == before
    assert server.asked == []


def test_relative_paths_start_at_the_working_directory(tmp_path, untrained_native, images, monkeypatch):
    for name, seed in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        native.write(tmp_path / name / "w.safetensors", fold(untrained(seed)))
    found = []
    for name in ("one", "two", "one"):
        monkeypatch.chdir(tmp_path / name)
        found.append(fastmnv2.embed(images[:2], weights="w.safetensors"))
        monkeypatch.setenv("FASTMNV2_WEIGHTS", "w.safetensors")
        found.append(fastmnv2.embed(images[:2]))
        monkeypatch.delenv("FASTMNV2_WEIGHTS")
    assert (found[0] == found[4]).all()
    assert not (found[0] == found[2]).all()
    assert all((found[i] == found[i + 1]).all() for i in (0, 2, 4))


@pytest.mark.parametrize("name", ["imagenet", "untrained"])
def test_a_folder_called_like_a_name_needs_a_path(tmp_path, cache, name):
    (tmp_path / name).mkdir()
    if name == "imagenet":
        with pytest.raises(WeightsUnavailable):
            fastmnv2.load(name)
    else:
        assert fastmnv2.load(name).weights["form"] == "untrained"
    for path in (f"./{name}", Path(name)):
        with pytest.raises(WeightsError, match="expected a folder with"):
            fastmnv2.load(path)


def test_weights_in_the_wheel_come_before_the_cache(monkeypatch, cache, untrained_native):
    cache.mkdir()
    (cache / "imagenet.safetensors").write_bytes(b"not read")
    monkeypatch.setattr(cache_module, "EMBEDDED", untrained_native)
    assert same(resolve(None), resolve(untrained_native))


def test_a_url_is_found_in_the_hub_cache(monkeypatch, tmp_path, cache):
    from make_module import make_module

    url = "https://tfhub.dev/google/imagenet/mobilenet_v2_075_96/feature_vector/2"
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    with pytest.raises(WeightsUnavailable):
        resolve(url)
    # The folder name that TF-Hub's module_spec and library compute.
    folder = tmp_path / hashlib.sha1(url.encode()).hexdigest()
    make_module(folder, untrained().tensors)
    assert same(resolve(url), resolve(folder))
    assert resolve(url).origin == hub.HANDLE
    assert same(resolve(None), resolve(folder))
    with pytest.raises(WeightsUnavailable, match="mobilenet_v2_100_224 weights are not on this machine"):
        resolve(url.replace("075_96", "100_224"))


def test_names_that_mean_nothing():
    with pytest.raises(FileNotFoundError, match="imagent"):
        fastmnv2.load("imagent")
    with pytest.raises(TypeError, match="str or path"):
        fastmnv2.load(os.fsencode("imagenet"))


def test_untrained_is_the_same_everywhere_and_its_activations_are_sensible(images, model):
    # TF-Slim's tensors, which depend only on the generator. A change would change every seeded figure in the tests.
    assert untrained().sha256.startswith("0dbf491ee8965742")
    assert untrained(1).sha256 != untrained().sha256
    for name, values in model.endpoints(images[:8]).items():
        scale = float(np.sqrt(np.mean(np.square(values))))
        assert 0.3 < scale < 6, name
        if name.endswith(("depthwise_output", "expansion_output")) or name == "default":
            assert 0.1 < np.mean(values > 0) <= 1, name


def test_a_converted_file_keeps_its_history(tmp_path, untrained_native):
    native.write(tmp_path / "again.safetensors", fold(untrained()))
    assert (tmp_path / "again.safetensors").read_bytes() == untrained_native.read_bytes()
