"""A folder of parts over many runs: added pictures, retries, rows that --prune drops, and files that stay untouched."""

import json
import os
import sys

import numpy as np
import PIL.Image
import pytest

import fastmnv2
from fastmnv2.core.atomic import locked
from fastmnv2.core.errors import ImageError, is_transient, text_of
from fastmnv2.image import decode, jobs, keys
from fastmnv2.image.inputs import Pictures

arrow = pytest.importorskip("pyarrow.parquet")
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX names, links and pipes")


def make(*paths, seed=0):
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.RandomState(seed + number).randint(0, 256, (9, 7, 3)).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(path, "png")


def rows(folder):
    """Each row of all parts by path. Raises if a path occurs twice."""
    found = {}
    for part in sorted(folder.glob("part-*.parquet")):
        for row in arrow.read_table(part).to_pylist():
            assert row["path"] not in found
            found[row["path"]] = row
    return found


def errors(folder):
    return {os.path.basename(path): row["error"] for path, row in rows(folder).items() if row["error"]}


@pytest.fixture
def fails(monkeypatch):
    """A dict of pictures' names and the errors that opening these pictures raises."""
    broken = {}
    real = decode.open_picture

    def open_picture(item, *arguments, **options):
        error = broken.get(os.path.basename(str(item)))
        if error is not None:
            raise error
        return real(item, *arguments, **options)

    monkeypatch.setattr(decode, "open_picture", open_picture)
    return broken


# ---- added pictures ----


def test_other_weights_of_the_same_source_are_refused(invoke, tmp_path):
    make(tmp_path / "p" / "0.png")
    invoke("convert", "untrained", tmp_path / "a.safetensors", "--head")
    invoke("convert", "untrained", tmp_path / "b.safetensors", "--input-range", 0, 1)
    invoke("embed", tmp_path / "p", "-o", f"{tmp_path / 'out'}/", "--weights", tmp_path / "a.safetensors")
    before = rows(tmp_path / "out")
    make(tmp_path / "p" / "1.png")
    output = invoke(
        "embed", tmp_path / "p", "-o", f"{tmp_path / 'out'}/", "--weights", tmp_path / "b.safetensors", code=1
    )
    assert "its features were made with weights" in output.stderr
    assert rows(tmp_path / "out") == before
    output = invoke(
        "embed", tmp_path / "p", "-o", f"{tmp_path / 'out'}/", "--weights", "untrained", "--precision", "int8", code=1
    )
    assert "precision 'float32', not 'int8'" in output.stderr


def test_a_head_makes_no_difference_to_features(invoke, tmp_path):
    make(tmp_path / "p" / "0.png")
    invoke("convert", "untrained", tmp_path / "a.safetensors")
    model = fastmnv2.load(tmp_path / "a.safetensors")
    assert model.features_digest == fastmnv2.load(model.folded.without_logits().file or "untrained").features_digest


def test_the_limit_of_pixels_may_change(invoke, tmp_path):
    make(tmp_path / "p" / "0.png")
    invoke("embed", tmp_path / "p", "-o", f"{tmp_path / 'out'}/", "--max-pixels", 5)
    assert list(errors(tmp_path / "out")) == ["0.png"]
    invoke("embed", tmp_path / "p", "-o", f"{tmp_path / 'out'}/", "--max-pixels", 500, "--retry-errors")
    assert not errors(tmp_path / "out")


def test_relative_names_start_at_the_working_directory(invoke, tmp_path, monkeypatch, model):
    for place in ("one", "two"):
        make(tmp_path / place / "p" / "0.png", seed=len(place) + ord(place[0]))
        monkeypatch.chdir(tmp_path / place)
        invoke("embed", "p", "-o", "../out/")
    monkeypatch.chdir(tmp_path / "one" / "p")
    assert " new" not in invoke("embed", ".", "./0.png", "-o", f"{tmp_path / 'out'}/").stderr
    monkeypatch.chdir(tmp_path / "two")
    assert " new" not in invoke("embed", "../one/p", "../two/p/0.png", "-o", "../out/").stderr
    found = rows(tmp_path / "out")
    assert sorted(found) == [str(tmp_path / place / "p" / "0.png") for place in ("one", "two")]
    for path, row in found.items():
        np.testing.assert_array_equal(np.float32(row["features"]), model.embed(fastmnv2.image.load_image(path)))


@POSIX
def test_a_byte_and_its_escape_are_two_pictures(invoke, tmp_path):
    raw, escaped = tmp_path / os.fsdecode(b"p/\xff.png"), tmp_path / "p" / "\\xff.png"
    make(raw, escaped)
    invoke("embed", tmp_path / "p", "-o", f"{tmp_path / 'out'}/")
    found = rows(tmp_path / "out")
    assert {keys.path_of(key) for key in found} == {str(raw), str(escaped)}
    assert f"file://{tmp_path}/p/%FF.png" in found
    raw.unlink()
    invoke("embed", tmp_path / "p", "-o", f"{tmp_path / 'out'}/", "--prune")
    assert list(rows(tmp_path / "out")) == [str(escaped)]


@POSIX
def test_a_parent_folder_in_a_key_is_that_of_a_links_target(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    for name in ("a/b/../0.png", "link/../0.png", "a/b/../../link/.././0.png", f"../{tmp_path.name}/a/0.png"):
        assert keys.key(f"{tmp_path}/{name}") == str(tmp_path / "a" / "0.png")
    assert keys.key(f"{tmp_path}/link/0.png") == str(tmp_path / "link" / "0.png")


def test_keys():
    assert keys.key("https://x/y z.png") == "https://x/y z.png"
    assert keys.key("file:///a/%FF.png") == keys.key("/a/%FF.png")
    assert keys.path_of(keys.key("/a/%FF.png")) == os.path.abspath("/a/%FF.png")
    assert keys.path_of("s3://x/y") is None
    assert keys.text("\udcff") == "\\udcff"


@POSIX
@pytest.mark.parametrize("name", [b"p/bad\xff", b"p/long" + b"g" * 300, b"p/nul"])
def test_any_error_can_be_stored(invoke, tmp_path, name):
    make(tmp_path / "p" / "0.png")
    if len(name) < 200:
        os.mkdir(tmp_path / os.fsdecode(name))
    (tmp_path / "list").write_bytes(b"\0".join([os.fsencode(tmp_path) + b"/" + name, bytes(tmp_path / "p" / "0.png")]))
    out = tmp_path / os.fsdecode(b"out\xff")
    for _ in range(2):
        invoke("embed", "--from", tmp_path / "list", "-0", "-o", f"{out}/", "--retry-errors")
    os.rename(out, tmp_path / "out")
    assert sum(row["features"] is not None for row in rows(tmp_path / "out").values()) == 1


def test_times_after_2262(invoke, tmp_path, monkeypatch):
    make(tmp_path / "p" / "0.png", tmp_path / "p" / "1.png")
    late = [9_300_000_000 * 10**9, 9_300_000_001 * 10**9]
    assert len({jobs._int64(time) for time in late}) == 2
    real = os.stat

    def stat(path, *arguments, **options):
        found = real(path, *arguments, **options)
        if str(path).endswith("1.png"):
            return type("Late", (), {"st_size": found.st_size, "st_mtime_ns": late[0], "st_mode": found.st_mode})()
        return found

    monkeypatch.setattr(jobs.os, "stat", stat)
    for message in ("2 new", "features of 2 pictures, 0 skipped"):
        assert message in invoke("embed", tmp_path / "p", "-o", f"{tmp_path / 'out'}/").stderr


# ---- retries ----


class Refused(Exception):
    def __init__(self, status):
        super().__init__(f"status {status}")
        self.status = status


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermissionError(13, "Permission denied"), True),
        (OSError(24, "Too many open files"), True),
        (OSError(5, "Input/output error"), True),
        (FileNotFoundError(2, "No such file"), False),
        (OSError(36, "File name too long"), False),
        (OSError("image file is truncated"), False),
        (ValueError("broken"), False),
        (ImportError("no Pillow", name="PIL"), True),
        (MemoryError(), True),
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (Refused(503), True),
        (Refused(429), True),
        (Refused(404), False),
    ],
)
def test_errors_of_the_machine(error, expected):
    assert is_transient(error) == expected
    outer = ValueError("wrapped")
    outer.__cause__ = error
    assert is_transient(outer) == expected
    found = ImageError.of(error, 0, "x")
    assert found.transient == expected
    assert type(found)(*found.__reduce__()[1]).transient == expected


class OfS3(Exception):
    def __init__(self, status):
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.mark.parametrize(
    ("cause", "gone"),
    [
        (None, True),
        (Refused(404), True),
        (Refused(410), True),
        (OfS3(404), True),
        (Refused(503), False),
        (Refused(403), False),
        (Refused(302), False),  # too many redirections
        (OfS3(503), False),
        (ConnectionRefusedError(111, "Connection refused"), False),
        (TimeoutError(), False),
    ],
)
def test_a_url_is_gone_only_if_its_server_says_so(monkeypatch, cause, gone):
    url = "http://localhost/1.png"

    class System:
        def info(self, path):
            raise FileNotFoundError(path) from cause  # as fsspec does, whatever the cause

    monkeypatch.setattr("fsspec.core.url_to_fs", lambda name: (System(), name))
    assert jobs._is_gone(url) == gone
    error = FileNotFoundError(url)
    error.__cause__ = cause
    assert ImageError.of(error, 0, url).reason == (text_of(cause) if cause else url)


def test_failures_of_the_machine_are_tried_again(invoke, tmp_path, fails):
    make(tmp_path / "p" / "0.png", tmp_path / "p" / "1.png", tmp_path / "p" / "2.png")
    fails |= {"1.png": PermissionError(13, "Permission denied"), "2.png": ValueError("2.png: broken")}
    command = ("embed", tmp_path / "p", "-o", f"{tmp_path / 'out'}/")
    assert "2 with an error" in invoke(*command).stderr
    assert json.loads(invoke(*command, "--json").stdout)["errors"] == 2
    fails.clear()
    summary = json.loads(invoke(*command, "--json").stdout)
    assert (summary["pictures"], summary["retried"], summary["errors"], summary["skipped"]) == (2, 1, 1, 0)
    assert list(errors(tmp_path / "out")) == ["2.png"]
    summary = json.loads(invoke(*command, "--json", "--retry-errors").stdout)
    assert (summary["pictures"], summary["retried"]) == (3, 1)
    assert not errors(tmp_path / "out")


def test_a_failure_of_the_machine_replaces_no_vector(invoke, tmp_path, fails):
    make(tmp_path / "p" / "0.png", tmp_path / "p" / "1.png")
    (tmp_path / "list").write_text(f"{tmp_path / 'p' / '0.png'}\n{tmp_path / 'p' / '1.png'}\n")
    command = ("embed", "--from", tmp_path / "list", "-o", f"{tmp_path / 'out'}/")
    invoke(*command)
    before = rows(tmp_path / "out")
    os.utime(tmp_path / "p" / "0.png", ns=(1, 1))  # changed, and can't be read
    fails["0.png"] = PermissionError(13, "Permission denied")
    (tmp_path / "p" / "1.png").unlink()
    assert invoke(*command, code=1).stderr.count("skipped ") == 2
    assert rows(tmp_path / "out") == before
    fails.clear()
    assert "1 changed" in invoke(*command, code=1).stderr


def test_a_missing_reader_is_a_failure_of_the_machine(invoke, tmp_path, monkeypatch):
    PIL.Image.init()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(PIL.Image, "OPEN", {name: how for name, how in PIL.Image.OPEN.items() if name != "HEIF"})
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    invoke("embed", tmp_path / "a.heic", "-o", f"{tmp_path / 'out'}/")
    (row,) = rows(tmp_path / "out").values()
    assert "HEIC needs pillow-heif" in row["error"]
    assert row["transient"]


# ---- pruning ----


@pytest.fixture
def three(invoke, tmp_path, monkeypatch):
    """Folders p, q and r with two pictures each, embedded."""
    monkeypatch.chdir(tmp_path)
    make(*(tmp_path / name / f"{i}.png" for name in "pqr" for i in range(2)))
    invoke("embed", "p", "q", "r", "-o", "out/")

    def prune(*sources, code=0):
        output = invoke("embed", *sources, "-o", "out/", "--prune", code=code).stderr
        return output, sorted(os.path.relpath(path, tmp_path) for path in rows(tmp_path / "out"))

    return prune


EVERY = [f"{name}/{i}.png" for name in "pqr" for i in range(2)]


def test_deleted_pictures_are_dropped(three, tmp_path):
    (tmp_path / "q" / "0.png").unlink()
    output, left = three("p", "q")
    assert "1 dropped" in output
    assert left == [name for name in EVERY if name != "q/0.png"]
    (tmp_path / "r" / "1.png").unlink()  # in a folder that isn't named and has other files
    assert three("p")[1] == [name for name in EVERY if name not in ("q/0.png", "r/1.png")]


def test_a_named_picture_that_was_deleted(three, tmp_path):
    (tmp_path / "q" / "0.png").unlink()
    assert three("q/0.png", "q/1.png", code=1)[1] == [name for name in EVERY if name != "q/0.png"]


@pytest.mark.parametrize("how", ["missing", "empty"])
def test_a_disk_that_is_not_mounted(three, tmp_path, how):
    os.rename(tmp_path / "q", tmp_path / "elsewhere")
    if how == "empty":
        (tmp_path / "q").mkdir()
    make(tmp_path / "p" / "new.png")
    output, left = three("p", "q", "r", code=1)
    assert "--prune dropped nothing, because a source can't be searched; everything else is done. q: " in output
    assert left == sorted([*EVERY, "p/new.png"])
    output, left = three("p", "r")
    assert "2 not found, but their rows kept" in output
    assert left == sorted([*EVERY, "p/new.png"])
    (tmp_path / "list").write_text("\n".join(EVERY))
    assert three("--from", "list", code=1)[1] == sorted([*EVERY, "p/new.png"])


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="every folder can be read here")
def test_a_folder_that_cant_be_read(three, tmp_path):
    (tmp_path / "q").chmod(0)
    try:
        assert "q: Permission denied" in three("p", "q", "r", code=1)[0]
        left = three(".")[1]
    finally:
        (tmp_path / "q").chmod(0o755)
    assert left == EVERY


def test_a_folder_whose_search_fails(three, tmp_path, monkeypatch):
    real = os.scandir

    def scandir(path="."):
        if os.path.basename(path) == "q":
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    output, left = three("p", "q", "r", code=1)
    assert "q: Permission denied" in output
    assert left == EVERY


def test_names_after_an_overlong_one_are_read(three, tmp_path):
    (tmp_path / "list").write_text("\n".join([*EVERY[:2], "x" * 200_000, *EVERY[2:]]))
    (tmp_path / "r" / "1.png").unlink()
    output, left = three("--from", "list", code=1)
    assert "a name of more than 65536 characters" in output
    assert left == EVERY[:-1]


# ---- other programs' files ----


def test_an_interrupted_job_reports_what_is_kept(invoke, tmp_path, monkeypatch):
    make(*(tmp_path / "p" / f"{i}.png" for i in range(20)))
    taken = []

    def names(self):
        for name in self.found:
            if len(taken) == 10:
                raise KeyboardInterrupt
            taken.append(name)
            yield name

    monkeypatch.setattr(Pictures, "names", names)
    output = invoke(
        "embed", tmp_path / "p", "-o", f"{tmp_path / 'out'}/", "--batch-size", 1, "--threads", 1, code=130
    ).stderr
    kept = len(rows(tmp_path / "out"))
    assert kept > 3
    assert output.startswith(
        f"interrupted; {tmp_path / 'out'} has the features of {kept} pictures, and the same command"
    )


@POSIX
def test_the_lock_never_writes_through_a_link_or_pipe(invoke, tmp_path):
    precious, out = tmp_path / "precious", tmp_path / "out"
    precious.write_text("kept")
    make(tmp_path / "p" / "0.png")
    out.mkdir()
    (out / ".lock").symlink_to(precious)
    assert "expected a regular file to lock" in invoke("embed", tmp_path / "p", "-o", f"{out}/", code=1).stderr
    (out / ".lock").unlink()
    os.mkfifo(out / ".lock")
    assert "expected a regular file to lock" in invoke("embed", tmp_path / "p", "-o", f"{out}/", code=1).stderr
    (out / ".lock").unlink()
    (out / ".lock").write_text("another lock")
    for mode in (0o644, 0o444):
        (out / ".lock").chmod(mode)
        with locked(out):
            pass
    assert (precious.read_text(), (out / ".lock").read_text()) == ("kept", "another lock")
    os.mkfifo(out / "part-000000.parquet")
    assert "got a special file" in invoke("embed", tmp_path / "p", "-o", f"{out}/", code=1).stderr


def test_another_program_s_manifest_is_kept(invoke, tmp_path):
    make(tmp_path / "p" / "0.png")
    (tmp_path / "out").mkdir()
    for text in ('{"name": "an app"}', "[1]", "not JSON"):
        (tmp_path / "out" / "manifest.json").write_text(text)
        assert (
            "expected a manifest that fastmnv2 wrote"
            in invoke("embed", tmp_path / "p", "-o", f"{tmp_path / 'out'}/", code=1).stderr
        )
        assert (tmp_path / "out" / "manifest.json").read_text() == text
