"""The step that puts weights into a wheel."""

import os
import subprocess
import sys

import numpy as np
import pytest
from build_c import ROOT
from test_names import Server, cache, server  # noqa: F401 - fixtures

import fastmnv2

SCRIPT = ROOT / "wheels" / "embed_weights.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="no wheels/ beside the tests")


def embed_weights(*arguments):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_weights_from_a_file_without_logits(tmp_path, untrained_native, model, images):
    target = tmp_path / "data" / "imagenet.safetensors"
    code, says = embed_weights(untrained_native, "--target", target)
    assert code == 0, says
    embedded = fastmnv2.load(target)
    assert (embedded.embed(images) == model.embed(images)).all()
    assert not embedded.has_logits
    assert target.stat().st_size < 6e6
    assert embed_weights("--remove", "--target", target)[0] == 0
    assert not target.exists()


def test_weights_downloaded(tmp_path, server, untrained_native, model, images):  # noqa: F811
    server.pages["/weights"] = 200, {}, untrained_native.read_bytes()
    target = tmp_path / "imagenet.safetensors"
    code, says = embed_weights("--target", target)
    assert code == 0, says
    assert np.array_equal(fastmnv2.load(target).embed(images), model.embed(images))
    server.pages.clear()
    os.remove(target)
    code, says = embed_weights("--target", target)
    assert code == 1
    assert "could not be downloaded" in says
    assert not target.exists()


def test_real_weights_fit_into_a_wheel(tmp_path, real_tflite):
    code, says = embed_weights(real_tflite, "--target", tmp_path / "imagenet.safetensors")
    assert code == 0, says
    assert (tmp_path / "imagenet.safetensors").stat().st_size < 6e6
