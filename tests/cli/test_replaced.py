"""--force replaces only files, and folders that the same command wrote."""

import json
import os
import sys

import pytest

from fastmnv2 import export
from fastmnv2.export import MARK, check_replaceable

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="pipes and symbolic links")


@pytest.fixture
def writers(monkeypatch):
    """Writers that need no other library: they write a file, or a folder like TensorFlow's."""

    def write(path, _source, _folded):
        if path.suffix:
            path.write_text("made")
            return
        (path / "variables").mkdir(parents=True)
        (path / "assets").mkdir()
        for name in ("saved_model.pb", "fingerprint.pb", "variables/variables.index"):
            (path / name).write_text("made")
        (path / "variables" / "variables.data-00000-of-00001").write_text("made")

    monkeypatch.setattr(export, "_writer", lambda suffix: write)


@pytest.mark.parametrize("name", ["photos.onnx", "photos.keras", "photos.safetensors", "photos"])
def test_a_folder_of_other_files_is_never_replaced(invoke, tmp_path, writers, name):
    (tmp_path / name / "holiday").mkdir(parents=True)
    (tmp_path / name / "holiday" / "1.png").write_text("kept")
    errors = invoke("convert", "untrained", tmp_path / name, "--force", code=1).stderr
    assert "got a folder" in errors or "files that fastmnv2 did not write" in errors
    assert (tmp_path / name / "holiday" / "1.png").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_saved_model_of_ours_is_replaced(invoke, tmp_path, writers):
    target = tmp_path / "model"
    invoke("convert", "untrained", target)
    assert "--force" in invoke("convert", "untrained", target, code=1).stderr
    invoke("convert", "untrained", target, "--force")
    assert "fastmnv2" in json.loads((target / MARK).read_text())
    (target / "assets" / "mine.txt").write_text("kept")
    assert "files that fastmnv2 did not write" in invoke("convert", "untrained", target, "--force", code=1).stderr
    (target / "assets" / "mine.txt").unlink()
    (target / MARK).unlink()  # now it looks like a SavedModel from TensorFlow
    assert "files that fastmnv2 did not write" in invoke("convert", "untrained", target, "--force", code=1).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_files_are_replaced(invoke, tmp_path, writers):
    (tmp_path / "m.onnx").write_text("old")
    invoke("convert", "untrained", tmp_path / "m.onnx", "--force")
    assert (tmp_path / "m.onnx").read_text() == "made"
    (tmp_path / "m").write_text("a file without a suffix")
    assert "expected a folder" in invoke("convert", "untrained", tmp_path / "m", "--force", code=1).stderr
    check_replaceable(tmp_path / "nothing")


@POSIX
def test_links_and_pipes(invoke, tmp_path, writers):
    (tmp_path / "there.onnx").write_text("old")
    (tmp_path / "link.onnx").symlink_to(tmp_path / "there.onnx")
    invoke("convert", "untrained", tmp_path / "link.onnx", "--force")
    assert (tmp_path / "link.onnx").is_symlink()
    assert (tmp_path / "there.onnx").read_text() == "made"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").write_text("kept")
    (tmp_path / "model").symlink_to(tmp_path / "elsewhere")
    assert (
        "files that fastmnv2 did not write"
        in invoke("convert", "untrained", tmp_path / "model", "--force", code=1).stderr
    )
    os.mkfifo(tmp_path / "pipe.onnx")
    assert "a special file" in invoke("convert", "untrained", tmp_path / "pipe.onnx", "--force", code=1).stderr
