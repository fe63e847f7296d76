"""Wheels contain the right weights, files and tags, and only a version's own tag is released."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from build_c import ROOT

import fastmnv2

SCRIPT = ROOT / "wheels" / "embed_weights.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="no wheels/ next to the tests")


def embed_weights(*arguments):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_weights_from_a_file_without_logits(tmp_path, untrained_native, model, images):
    target = tmp_path / "data" / "imagenet.safetensors"
    code, output = embed_weights(untrained_native, "--target", target)
    assert code == 0, output
    embedded = fastmnv2.load(target)
    assert (embedded.embed(images) == model.embed(images)).all()
    assert not embedded.has_logits
    assert target.stat().st_size < 6e6
    assert embed_weights("--remove", "--target", target)[0] == 0
    assert not target.exists()


def test_weights_downloaded(tmp_path, server, untrained_native, model, images):
    server.pages["/weights"] = 200, {}, untrained_native.read_bytes()
    target = tmp_path / "imagenet.safetensors"
    pinned = ["--sha256", hashlib.sha256(untrained_native.read_bytes()).hexdigest(), "--target", target]
    code, output = embed_weights(*pinned)
    assert code == 0, output
    assert np.array_equal(fastmnv2.load(target).embed(images), model.embed(images))
    os.remove(target)
    code, output = embed_weights("--sha256", "0" * 64, "--target", target)
    assert code == 1
    assert "expected sha256 000" in output
    server.pages.clear()
    code, output = embed_weights(*pinned)
    assert code == 1
    assert "could not be downloaded" in output
    assert not target.exists()


def test_weights_without_a_known_hash_are_refused(tmp_path, server, untrained_native):
    server.pages["/weights"] = 200, {}, untrained_native.read_bytes()
    code, output = embed_weights("--target", tmp_path / "imagenet.safetensors")
    assert code == 1
    assert "is unknown" in output
    assert server.asked == []


def test_only_the_versions_own_tag_is_released(tmp_path):
    from check_tag import problem

    (tmp_path / "fastmnv2").mkdir()
    (tmp_path / "fastmnv2" / "_version.py").write_text('__version__ = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.0 (unreleased)\n")
    assert "no dated entry for 1.2.0" in problem("v1.2.0", tmp_path)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.0 (2026-01-02)\n")
    assert problem("v1.2.0", tmp_path) == ""
    for tag in ("1.2.0", "v1.2.1", "v1.2", "main", "v1.2.0-rc1"):
        assert "expected v1.2.0" in problem(tag, tmp_path)


def test_workflows_are_pinned_and_may_do_little():
    folder = ROOT / ".github" / "workflows"
    if not folder.is_dir():
        pytest.skip("no workflows next to the tests")
    for path in folder.iterdir():
        text = path.read_text()
        assert re.search(r"^permissions:\n  contents: read$", text, re.M), path
        for action in re.findall(r"uses: (\S+)", text):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action
        for tool in re.findall(r"(?:pip install|pipx run) (?!\.|'\.|-)(\S+)", text):
            assert "==" in tool, tool


def test_real_weights_fit_into_a_wheel(tmp_path, real_tflite):
    code, output = embed_weights(real_tflite, "--target", tmp_path / "imagenet.safetensors")
    assert code == 0, output
    assert (tmp_path / "imagenet.safetensors").stat().st_size < 6e6


def check_wheel(path):
    command = [sys.executable, str(SCRIPT.with_name("check_wheel.py")), "--no-install", "--glibc", "2.36", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_wheel_check_finds_every_fault(tmp_path):
    engine, resize = (Path(module.__file__) for module in (fastmnv2.core._engine, fastmnv2.image._resize))
    info = "fastmnv2-0.1.0.dist-info"
    good = {
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nTag: cp311-cp311-linux_x86_64\n",
        f"{info}/METADATA": b"Name: fastmnv2\n\n# fastmnv2\n",
        f"{info}/licenses/LICENSE": b"",
        "fastmnv2/py.typed": b"",
        "fastmnv2/core/_engine.pyi": b"",
        "fastmnv2/image/_resize.pyi": b"",
        f"fastmnv2/core/{engine.name}": engine.read_bytes(),
        f"fastmnv2/image/{resize.name}": resize.read_bytes(),
    }
    wrong = {
        "tags": {f"{info}/WHEEL": b"Tag: py3-none-any\n"},
        "description: links to": {f"{info}/METADATA": b"Name: fastmnv2\n\n![Speed](benches/results/comparison.png)\n"},
        "licenses/LICENSE is missing": {f"{info}/licenses/LICENSE": None},
        "py.typed is missing": {"fastmnv2/py.typed": None},
        "belong into a wheel": {"fastmnv2/core/_engine.c": b""},
        "modules: expected": {f"fastmnv2/core/{engine.name}": None},
        "folders": {"tests/test_x.py": b""},
        "the wheel contains weights": {"fastmnv2/data/imagenet.safetensors": b""},
        "expected at most 1.5": {"fastmnv2/large": os.urandom(2 << 20)},
    }
    if shutil.which("readelf") and sys.platform == "linux":
        libm = next(Path("/").glob("lib*/*/libm.so.6"), None)
        if libm:
            wrong["exports"] = {f"fastmnv2/core/{engine.name}": libm.read_bytes()}
    path = tmp_path / "fastmnv2-0.1.0-cp311-cp311-linux_x86_64.whl"
    for message, change in ({"0 problems": {}} | wrong).items():
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in (good | change).items():
                if data is not None:
                    archive.writestr(name, data)
        code, output = check_wheel(path)
        assert message in output
        assert code == (message != "0 problems"), output
