"""The command line reads lists in several encodings, links and URLs, refuses ambiguous files, and explains itself."""

import os
import re
import subprocess
import sys

import click
import numpy as np
import PIL.Image
import pytest

import fastmnv2
from fastmnv2 import cli
from fastmnv2.image.find import find
from fastmnv2.image.inputs import read_names

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="symbolic links and odd names")
NAMES = ["a.png", "naïve 猫.png", "c d.png"]


class Trickle:
    """A file that returns a few bytes at a time, like pipes."""

    def __init__(self, data, step):
        self.data, self.step = data, step

    def read1(self, _size):
        chunk, self.data = self.data[: self.step], self.data[self.step :]
        return chunk


@pytest.mark.parametrize("step", [1, 3, 100_000])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\0"])
def test_lists_in_every_encoding(step, encoding, ending):
    bom = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    data = bom + (ending.join(NAMES) + ending).encode(encoding)
    assert list(read_names(Trickle(data, step), pytest.fail, null=ending == "\0")) == NAMES


def test_invalid_names_in_lists_are_skipped():
    skipped = []
    data = b"a.png\0b.png\nc.png\n" + b"x" * 70_000 + b"\n" + b"y" * 200_000 + b"\nd.png"
    for step in (1000, 1 << 20):
        skipped.clear()
        found = list(read_names(Trickle(data, step), lambda *what: skipped.append(what), null=False))
        assert found == ["c.png", "d.png"]
        assert [re.sub(r"(.)\1+", r"\1", name) for name, _ in skipped] == ["a.png\0b.png", "x…", "y…"]
        assert "-0 reads names" in skipped[0][1]


@POSIX
def test_bytes_that_are_no_utf8_stay_as_they_are():
    assert list(read_names(Trickle(b"a\xff.png\n\xe9", 2), pytest.fail, null=False)) == [
        os.fsdecode(b"a\xff.png"),
        os.fsdecode(b"\xe9"),
    ]


@POSIX
@pytest.mark.parametrize("command", ["embed", "classify"])
def test_linked_folders(invoke, pictures, tmp_path, command):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    os.symlink(pictures / "sub", tmp_path / "in" / "link")
    os.symlink(tmp_path / "in", tmp_path / "in" / "deep" / "circle")
    (tmp_path / "in" / "a.png").write_bytes((pictures / "a.png").read_bytes())

    def result(*options):
        output = ["-o", tmp_path / "f.npz", "--force"] if command == "embed" else ["--top", 1]
        return invoke(command, tmp_path / "in", *options, *output)

    output = result()
    assert "2 linked folders left out (--follow-links searches them)" in output.stderr
    assert "features of 1 picture" in output.stderr or output.stdout.count("\n") == 1
    output = result("--follow-links")
    assert "left out" not in output.stderr
    assert "features of 3 pictures" in output.stderr or output.stdout.count("\n") == 3


def test_urls_may_be_arguments(tmp_path):
    skipped = []
    found = find(["https://x.example/a.png", "data:image/png;base64,AA"], lambda *what: skipped.append(what))
    assert found.paths == ["data:image/png;base64,AA", "https://x.example/a.png"]
    assert not skipped


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_output_that_can_t_be_encoded_is_escaped(pictures, tmp_path, encoding):
    (tmp_path / "猫.png").write_bytes((pictures / "a.png").read_bytes())
    (tmp_path / "broken猫.png").write_bytes(b"\x89PNG")
    command = [sys.executable, "-m", "fastmnv2", "classify", str(tmp_path), "--weights", "untrained", "--top", "1"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=120)
    assert b"\\u732b.png" in done.stdout
    assert b"broken\\u732b.png" in done.stderr


def test_closed_streams(pictures, tmp_path):
    """A file that gets a closed stream's descriptor must not receive the stream's output."""
    target, missing = tmp_path / "f.npz", tmp_path / "missing.png"
    command = ["-m", "fastmnv2", "embed", pictures / "a.png", missing, "-o", target, "--weights", "untrained"]
    closed = "import os, sys; os.closerange(0, 3); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    done = subprocess.run([sys.executable, "-c", closed, *command], capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")  # 1: a picture is missing
    assert np.load(target)["features"].shape == (1, 1280)


def test_one_file_for_two_purposes(invoke, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_text("a.png\n")
    message = "name the same file"
    assert message in invoke("embed", "--from", "x.csv", "-o", "./x.csv", "--force", code=2).stderr
    for report in ("m.safetensors", "./m.safetensors", tmp_path / "m.safetensors"):
        assert message in invoke("train", pictures, "-o", "m.safetensors", "--report", report, code=2).stderr
    assert message in invoke("train", "x.csv", "-o", "m.safetensors", "--report", "x.csv", "--force", code=2).stderr
    quantize = ("quantize", "untrained", "q.safetensors", "--calibrate", pictures)
    assert message in invoke(*quantize, "--plot", "q.safetensors", code=2).stderr
    assert message in invoke("convert", "x.csv", "./x.csv", "--force", code=2).stderr
    assert message in invoke("embed", pictures, "x.csv", "-o", "./x.csv", "--force", code=2).stderr
    with pytest.raises(ValueError, match="another file"):
        fastmnv2.quantize("x.csv", tmp_path / "x.csv", np.zeros((5, 96, 96, 3), np.uint8))
    with pytest.raises(ValueError, match="another file"):
        fastmnv2.learn.train("x.csv", report=tmp_path / "x.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


def commands():
    context = click.Context(cli.cli)
    return [cli.cli, *(cli.cli.get_command(context, name) for name in cli.cli.list_commands(context))]


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
def test_every_option_is_explained(command):
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
    with click.Context(command, info_name="fastmnv2") as context:
        text = command.get_help(context)
    assert "Examples:" in text
    assert max(map(len, text.splitlines())) <= 100
    for line in text.split("Examples:")[1].splitlines():
        words = line.split()
        for number, word in enumerate(words):
            if word == "fastmnv2":  # the commands and options of the examples exist
                found = cli.cli.get_command(context, words[number + 1])
                known = {name for option in found.params for name in (*option.opts, *option.secondary_opts)}
                assert {part for part in words[number + 2 :] if part.startswith("-") and part != "-"} <= known


def test_the_decoding_options_are_those_of_the_library(invoke, tmp_path):
    from fastmnv2.cli.common import DECODING
    from fastmnv2.image.decode import Options

    names = {option.name for option in click.Command("x", params=_params(DECODING)).params}
    fields = set(Options.__dataclass_fields__)
    assert names == fields - {"size"}
    PIL.Image.fromarray(np.zeros((9, 9, 4), np.uint8)).save(tmp_path / "a.png")
    invoke("embed", tmp_path / "a.png", "-o", tmp_path / "f.npy")


def _params(options):
    def nothing():
        pass

    for option in options:
        option(nothing)
    return nothing.__click_params__
