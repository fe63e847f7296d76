"""Feature files are complete or unchanged. Strange names change neither their content nor the messages."""

import csv
import json
import os
import pty
import re
import select
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from processes import start

from fastmnv2.core.errors import printable
from fastmnv2.image import outputs

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes, links and signals")


def features(rows, value):
    return np.full((rows, 1280), value, np.float32)


def read_npy(path):
    with path.open("rb") as file:
        return np.load(file), np.load(file)


def write(target, value, rows=40):
    """Write rows filled with ``value``, and paths that contain it."""
    with outputs.open_output(target, 1280) as writer:
        for _ in range(rows // 10):
            writer.append([str(value)] * 10, features(10, value))


def check(target):
    found, paths = read_npy(target)
    assert len(found) == len(paths)
    assert (found == paths.astype(np.float32)[:, np.newaxis]).all()


def test_two_writers_at_once_never_mix(tmp_path):
    """With paths in a separate file, 12 of 60 runs mixed the paths and rows of two writers."""
    target = tmp_path / "f.npy"
    for turn in range(60):
        both = [threading.Thread(target=write, args=[target, value, 10 * (value + 1)]) for value in (turn % 7, 9)]
        for one in both:
            one.start()
        for one in both:
            one.join()
        check(target)
    assert [path.name for path in tmp_path.iterdir()] == ["f.npy"]


@POSIX
def test_paths_match_the_rows_after_a_kill_at_any_moment(tmp_path):
    target = tmp_path / "f.npy"
    write(target, 0)
    for turn in range(20):
        with start("endless_writer", target) as child:
            child.stdout.readline()
            time.sleep(0.003 * turn)
            child.kill()
        check(target)


@POSIX
@pytest.mark.parametrize("name", ["f.npy", "f.npz", "f.csv"])
def test_the_old_files_mode_is_kept(tmp_path, name):
    target = tmp_path / name
    for mode in (0o600, 0o640, 0o666, 0o444):
        target.touch()
        target.chmod(mode)
        write(target, 1)
        assert stat.S_IMODE(target.stat().st_mode) == mode
        target.unlink()


@POSIX
def test_a_symbolic_link_is_written_through(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    place, link = tmp_path / "elsewhere" / "g.npy", tmp_path / "f.npy"
    link.symlink_to(place)
    for _ in range(2):  # the target does not exist at first, then it does
        write(link, 1)
        assert link.is_symlink()
        check(place)
    assert [path.name for path in place.parent.iterdir()] == ["g.npy"]


@POSIX
def test_a_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "f.csv")
    with pytest.raises(ValueError, match="expected a file to write"):
        write(tmp_path / "f.csv", 1)
    assert stat.S_ISFIFO((tmp_path / "f.csv").stat().st_mode)


def test_paths_of_very_different_lengths(tmp_path):
    names = ["x" * 3000, *map(str, range(5000))]
    with outputs.open_output(tmp_path / "f.npy", 1280) as writer:
        writer.append(names, features(len(names), 0))
    assert read_npy(tmp_path / "f.npy")[1].tolist() == names


def test_an_existing_file_is_kept_without_force(invoke, pictures, tmp_path):
    target = tmp_path / "f.npy"
    target.write_text("kept")
    assert "--force" in invoke("embed", pictures, "-o", target, code=1).stderr
    assert target.read_text() == "kept"
    invoke("embed", pictures, "-o", target, "--force")
    assert len(read_npy(target)[0]) == 4


@pytest.mark.parametrize("command", ["embed", "classify"])
def test_a_missing_named_file_gives_exit_code_1_after_the_others_are_done(invoke, pictures, tmp_path, command):
    output = ["-o", tmp_path / "f.npy"] if command == "embed" else []
    (tmp_path / "list").write_text(f"{pictures / 'a.png'}\n{tmp_path / 'gone.jpg'}\n")
    for missing in ([tmp_path / "gone.png"], [tmp_path / "gone*.png"], ["--from", tmp_path / "list"]):
        result = invoke(command, pictures, *missing, *output, code=1)
        assert re.search(r"^skipped .*gone.*: no such file", result.stderr, re.M | re.I)
        if output:
            assert len(read_npy(output[1])[0]) >= 4
            output[1].unlink()
        else:
            assert len(result.stdout.splitlines()) >= 20


NAMES = ["two\nlines.png", "\x1b[31mred.png", "back\b.png", "\x9b2J.png", "left\u202eright.png", "=1+1.png", "-x.png"]


@POSIX
def test_control_characters_are_escaped_everywhere(invoke, pictures, tmp_path, monkeypatch):
    folder = tmp_path / "in\x1b[0m"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes((pictures / "a.png").read_bytes())
        (folder / f"broken{name}").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "labels").write_text("".join(f"label\x1b[1m {i}\x85\n" for i in range(1001)))
    monkeypatch.chdir(folder)
    results = [
        invoke("embed", folder, "-o", "f\x1b.csv"),
        invoke("classify", folder, "--labels", tmp_path / "labels"),
        invoke("classify", folder, "--labels", tmp_path / "labels", "--json"),
        invoke("demo", folder),
        invoke("embed", "gone\x1b[2J.png", "-o", tmp_path / "f.npy", code=1),
        invoke("embed", folder, "-o", "f\x1b.csv", code=1),
        invoke("embed", folder, "--\x1b[2J", "-o", tmp_path / "f.npy", code=2),
        invoke("convert", "untrained", "w\x1b.safetensors"),
        invoke("info", "--weights", "w\x1b.safetensors"),
        invoke("info", "--weights", "gone\x1b"),
    ]
    for result in results:
        for text in (result.stdout, result.stderr):
            assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text), text
    assert len(results[1].stdout.splitlines()) == 5 * len(NAMES)
    assert len(results[1].stderr.splitlines()) == len(NAMES) + 1  # skipped files, and a line that counts f.csv
    assert [json.loads(line)["path"] for line in results[2].stdout.splitlines()] == sorted(
        str(folder / name) for name in NAMES
    )
    with (folder / "f\x1b.csv").open(encoding="utf-8", newline="") as file:
        rows = file.read().splitlines()
    assert len(rows) == 1 + len(NAMES)
    assert "two\\nlines.png" in "".join(rows)


@POSIX
def test_no_cell_of_a_csv_is_a_formula(invoke, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["=1+1.png", "+1.png", "-1.png", "@x.png"]
    for name in names:
        (tmp_path / name).write_bytes((pictures / "a.png").read_bytes())
    invoke("embed", "-o", "f.csv", "--", *names)
    with (tmp_path / "f.csv").open(newline="") as file:
        paths = [row[0] for row in csv.reader(file)][1:]
    assert paths == sorted(f"./{name}" for name in names)
    assert all(os.path.exists(path) for path in paths)


def test_the_summary_as_json(invoke, pictures, tmp_path, untrained_native):
    found = json.loads(invoke("embed", pictures, "-o", tmp_path / "f.npz", "--json").stdout)
    assert {name: found[name] for name in ("output", "pictures", "skipped", "other_files")} == {
        "output": str(tmp_path / "f.npz"),
        "pictures": 4,
        "skipped": 0,
        "other_files": 1,
    }
    assert found["weights"]["origin"] == str(untrained_native)


def test_a_search_reports_files_of_other_kinds(invoke, pictures, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.mov", "b.mov", "c", ".hidden"):
        (tmp_path / "in" / name).touch()
    result = invoke("embed", pictures, tmp_path / "in", "-o", tmp_path / "f.npy")
    assert "; 4 files of other kinds left out (.mov, .txt, no suffix);" in result.stderr
    assert "4 files of other kinds left out" in invoke("classify", pictures, tmp_path / "in").stderr
    assert "3 files of other kinds left out (.mov, no suffix)" in invoke("classify", tmp_path / "in", code=1).stderr
    (tmp_path / "in" / "d.jfif").write_bytes((pictures / "b.JPG").read_bytes())
    assert "features of 1 picture," in invoke("embed", tmp_path / "in", "-o", tmp_path / "g.npy").stderr


@pytest.mark.parametrize("limit", [40, 99, 100, 1000])
@pytest.mark.parametrize("sign", ["n", "\udcff"])
def test_long_text_is_cut(limit, sign):
    for length in (limit, limit + 1, 5000):
        text = printable("start" + sign * (length - 5), limit)
        assert text.startswith("start")
        assert len(text) <= limit
    assert printable("n" * limit, limit) == "n" * limit


def test_the_demos_table_fits_a_terminal(invoke, pictures, tmp_path):
    for number in range(12):
        (tmp_path / f"a long name of a picture {number}.png").write_bytes((pictures / "a.png").read_bytes())
    for paths in ([], [tmp_path]):
        assert max(map(len, invoke("demo", *paths).stdout.splitlines())) < 120
        table = invoke("demo", *paths).stdout.partition("features:")[2]
        assert max(map(len, table.splitlines())) <= 80


@pytest.mark.slow
@POSIX
@pytest.mark.parametrize("command", ["embed", "classify"])
def test_the_progress_bar_moves_and_stays_on_its_line(tmp_path, untrained_native, command):
    """On a terminal, the bar moves while files are skipped, and at least every second on large pictures."""
    import PIL.Image

    noise = np.random.RandomState(0).randint(0, 256, (40, 40, 3)).astype(np.uint8)
    large = PIL.Image.fromarray(noise).resize((4000, 4000))
    large.save(tmp_path / "0.png", compress_level=1)
    for number in range(1, 48):  # many, because the bar is drawn less often on a loaded machine
        os.link(tmp_path / "0.png", tmp_path / f"{number}.png")
    for number in range(4):
        (tmp_path / f"{number}broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    arguments = [command, tmp_path, "--weights", untrained_native]
    arguments += ["-o", tmp_path / "f.npy"] if command == "embed" else []
    output = on_a_terminal([sys.executable, "-m", "fastmnv2", *map(str, arguments)])
    counts = [int(count) for _, text in output for count in re.findall(rb"(\d+)/52", text)]
    assert len(set(counts)) > 8, counts
    seen = b"".join(text for _, text in output)
    assert seen.count(b"skipped ") == 4
    for line in re.findall(rb"[^\r\n]*skipped [^\r\n]*", seen):
        assert b"/52" not in re.sub(rb"^.*\x1b\[2K", b"", line), line


def on_a_terminal(command):
    """A program's output to standard error, which is a terminal: pairs of time and bytes."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=os.environ | {"TERM": "xterm"})
    os.close(theirs)
    output = []
    while True:
        if select.select([ours], [], [], 60)[0]:
            try:
                output.append((time.monotonic(), os.read(ours, 65536)))
            except OSError:  # the program has ended
                break
    os.close(ours)
    assert child.wait(30) == 0
    return output
