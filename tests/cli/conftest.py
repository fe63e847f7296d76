"""Fixtures: generated pictures, and the command line run in this process."""

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

from fastmnv2 import cli

NAMES = ["a.png", "b.JPG", "sub/c.bmp", "sub/deep/d.webp"]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Four readable pictures, and files that a search skips."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.RandomState(3)
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in [*NAMES, "._a.png", ".hidden/e.png"]:
        coarse = random.randint(0, 256, (6, 8, 3)).astype(np.uint8)
        PIL.Image.fromarray(coarse).resize((120, 90)).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def invoke(untrained_native, monkeypatch):
    """A function that runs a command in this process and checks its exit code."""
    monkeypatch.setenv("FASTMNV2_WEIGHTS", str(untrained_native))

    def invoke_once(*arguments, code=0):
        result = CliRunner().invoke(cli.cli, [str(part) for part in arguments])
        assert result.exit_code == code, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert "Traceback" not in result.stderr
        return result

    return invoke_once
