"""What "imagenet", "untrained" and a TF-Hub URL stand for, and the download, from a server on this machine."""

import hashlib
import os
import tarfile

import numpy as np
import pytest

import fastmnv2
from fastmnv2.errors import WeightsError, WeightsUnavailable
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
    "too large, as told": (200, {"Content-Length": str(download.LIMIT + 1)}, b"x"),
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
@pytest.mark.parametrize("told", [True, False], ids=["length told", "length not told"])
def test_a_truncated_download_leaves_nothing(server, cache, native_bytes, kept, told):
    body = native_bytes[: int(len(native_bytes) * kept)]
    server.pages["/weights"] = 200, {"Content-Length": str(len(native_bytes if told else body))}, body
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


def test_download_false_asks_nobody(server, cache, native_bytes):
    server.pages["/weights"] = 200, {}, native_bytes
    for name in (None, "imagenet", hub.HANDLE):
        with pytest.raises(WeightsUnavailable, match=r"download=False.*Three ways out"):
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


def test_weights_in_the_wheel_come_before_the_cache(monkeypatch, cache, untrained_native):
    cache.mkdir()
    (cache / "imagenet.safetensors").write_bytes(b"not looked at")
    monkeypatch.setattr(cache_module, "EMBEDDED", untrained_native)
    assert same(resolve(None), resolve(untrained_native))


def test_a_url_is_found_in_the_hub_cache(monkeypatch, tmp_path, cache):
    from make_module import make_module

    url = "https://tfhub.dev/google/imagenet/mobilenet_v2_075_96/feature_vector/2"
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    with pytest.raises(WeightsUnavailable):
        resolve(url)
    # TF-Hub's own naming, as module_spec and the library of TF-Hub compute it.
    folder = tmp_path / hashlib.sha1(url.encode()).hexdigest()
    make_module(folder, untrained().tensors)
    assert same(resolve(url), resolve(folder))
    assert resolve(url).origin == hub.HANDLE
    assert same(resolve(None), resolve(folder))
    with pytest.raises(WeightsUnavailable, match=r"only https://tfhub\.dev"):
        resolve(url.replace("075_96", "100_224"))


def test_names_that_mean_nothing():
    with pytest.raises(FileNotFoundError, match="imagent"):
        fastmnv2.load("imagent")
    with pytest.raises(TypeError, match="str or path"):
        fastmnv2.load(os.fsencode("imagenet"))


def test_untrained_is_the_same_everywhere_and_its_activations_are_sensible(images, model):
    # Of TF-Slim tensors, so of the generator alone. A change of it changes every seeded figure in the tests.
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
