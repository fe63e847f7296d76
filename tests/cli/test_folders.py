"""``fastmnv2 embed -o FOLDER/``: a killed job leaves consistent parts, and the next run resumes it."""

import json
import os
import random
import signal
import sys
import time

import numpy as np
import PIL.Image
import pytest
from processes import run_program, start

from fastmnv2 import image
from fastmnv2.core.atomic import locked
from fastmnv2.image import parts

pytest.importorskip("pyarrow")


def make(folder, count, first=0):
    folder.mkdir(exist_ok=True)
    source = np.random.RandomState(first).randint(0, 256, (count, 7, 9, 3)).astype(np.uint8)
    for i, array in enumerate(source, first):
        PIL.Image.fromarray(array).save(folder / f"{i:05}.png")
    return folder


def read(folder):
    """Every row by path, and the manifest's content."""
    import pyarrow.parquet

    manifest = json.loads((folder / "manifest.json").read_text())
    assert sorted(path.name for path in folder.glob("*.parquet")) == [part["file"] for part in manifest["parts"]]
    rows = {}
    for part in manifest["parts"]:
        found = pyarrow.parquet.read_table(folder / part["file"]).to_pylist()
        assert len(found) == part["rows"]
        assert sum(row["error"] is not None for row in found) == part["errors"]
        for row in found:
            assert row["path"] not in rows, "twice"
            rows[row["path"]] = row
    assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]
    return rows


def check(rows, paths, model):
    """Check that each picture occurs once, with the same vector as when computed alone."""
    assert sorted(rows) == sorted(map(str, paths))
    for path in paths:
        row = rows[str(path)]
        assert (row["size"], row["mtime"]) == (path.stat().st_size, path.stat().st_mtime_ns)
        np.testing.assert_array_equal(np.float32(row["features"]), model.embed(image.load_image(path)))


def test_parts_and_rows(invoke, tmp_path, model, monkeypatch):
    monkeypatch.setattr(parts, "PART_ROWS", 10)
    pictures = make(tmp_path / "pictures", 25)
    out = tmp_path / "out"
    summary = json.loads(invoke("embed", pictures, "-o", f"{out}/", "--json").stdout)
    assert (summary["pictures"], summary["new"], summary["skipped"]) == (25, 25, 0)
    check(read(out), list(pictures.iterdir()), model)
    assert [part["rows"] for part in json.loads((out / "manifest.json").read_text())["parts"]] == [10, 10, 5]


def test_new_changed_and_deleted_pictures(invoke, tmp_path, model, monkeypatch):
    monkeypatch.setattr(parts, "PART_ROWS", 10)
    pictures, out = make(tmp_path / "pictures", 25), tmp_path / "out"
    invoke("embed", pictures, "-o", f"{out}/")
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    again = invoke("embed", pictures, "-o", f"{out}/")
    assert " new" not in again.stderr
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name != ".lock"} == {
        name: value for name, value in before.items() if name != ".lock"
    }
    make(pictures, 3, first=100)  # new
    PIL.Image.new("RGB", (5, 5), "red").save(pictures / "00003.png")  # changed
    (pictures / "00007.png").unlink()
    gone = str(pictures / "00007.png")
    summary = json.loads(invoke("embed", pictures, "-o", f"{out}/", "--json").stdout)
    assert (summary["pictures"], summary["new"], summary["changed"]) == (28, 3, 1)
    rows = read(out)
    assert gone in rows
    del rows[gone]
    check(rows, list(pictures.iterdir()), model)
    summary = json.loads(invoke("embed", pictures, "-o", f"{out}/", "--json", "--prune").stdout)
    assert (summary["pictures"], summary["dropped"]) == (27, 1)
    check(read(out), list(pictures.iterdir()), model)


def test_bad_files_have_a_row_with_the_error(invoke, tmp_path):
    pictures, out = make(tmp_path / "pictures", 3), tmp_path / "out"
    (pictures / "bad.png").write_bytes(b"nothing")
    done = invoke("embed", pictures, tmp_path / "none.png", "-o", f"{out}/", code=1)  # none.png is missing
    assert done.stderr.count("skipped") == 3  # two files, and the summary
    rows = read(out)
    assert len(rows) == 4
    bad = rows[str(pictures / "bad.png")]
    assert bad["features"] is None
    assert bad["error"].startswith("expected a JPEG")
    PIL.Image.new("RGB", (5, 5)).save(pictures / "bad.png")
    invoke("embed", pictures, "-o", f"{out}/")
    assert read(out)[str(pictures / "bad.png")]["error"] is None


def test_float16_and_normalized(invoke, tmp_path, model):
    import pyarrow

    pictures, out = make(tmp_path / "pictures", 3), tmp_path / "out"
    invoke("embed", pictures, "-o", f"{out}/", "--float16", "--normalize")
    table = pyarrow.parquet.read_table(out / "part-000000.parquet")
    assert table.schema.field("features").type == pyarrow.list_(pyarrow.float16(), 1280)
    expected = model.embed(image.load_image(pictures / "00001.png"), normalize=True).astype(np.float16)
    np.testing.assert_array_equal(np.float16(read(out)[str(pictures / "00001.png")]["features"]), expected)


def test_other_options_than_those_of_the_first_run_are_refused(invoke, tmp_path):
    pictures, out = make(tmp_path / "pictures", 3), tmp_path / "out"
    invoke("embed", pictures, "-o", f"{out}/")
    for options in (["--method", "area"], ["--normalize"], ["--float16"], ["--decode", "scaled"], ["--no-exif"]):
        assert "were made with" in invoke("embed", pictures, "-o", f"{out}/", *options, code=1).stderr
    (out / "part-000007.parquet").write_bytes(b"something else")
    assert "part-000007.parquet: expected a part" in invoke("embed", pictures, "-o", f"{out}/", code=1).stderr


def test_lists_from_pipes_and_files(invoke, tmp_path, model):
    pictures, out = make(tmp_path / "pictures", 5), tmp_path / "out"
    names = sorted(pictures.iterdir())
    (tmp_path / "list").write_bytes(b"\0".join(os.fsencode(path) for path in [*names, names[0]]))
    invoke("embed", "--from", tmp_path / "list", "-0", "-o", f"{out}/")
    check(read(out), names, model)


def test_two_writers_at_once(invoke, tmp_path):
    pictures, out = make(tmp_path / "pictures", 3), tmp_path / "out"
    out.mkdir()
    with locked(out):
        assert "another process is writing" in invoke("embed", pictures, "-o", f"{out}/", code=1).stderr
    invoke("embed", pictures, "-o", f"{out}/")


def test_folder_options_are_refused_for_files(invoke, tmp_path):
    assert "are for -o FOLDER/" in invoke("embed", tmp_path, "-o", tmp_path / "a.npy", "--prune", code=2).stderr


def wait_for_a_save(process, out):
    """Wait until the job has written another part or has ended."""

    def written():
        return {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}

    before = written()
    while process.poll() is None and written() == before:
        time.sleep(0.005)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("kills", "number"), [(3, 300), pytest.param(15, 1000, marks=pytest.mark.slow)])
def test_killed_many_times(untrained_native, tmp_path, model, kills, number):
    """A job that is killed at random times while pictures change loses no row and writes none twice."""
    pictures, out = make(tmp_path / "pictures", number), tmp_path / "out"
    chance = random.Random(5)
    at_work = 0
    for _ in range(kills):
        with start("slow_folder", "embed", pictures, "-o", f"{out}/", "--weights", untrained_native) as process:
            wait_for_a_save(process, out)
            time.sleep(chance.random() * 0.05)
            process.send_signal(chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
            process.wait(30)
        at_work += bool(list(out.glob("*.parquet"))) and not (out / "manifest.json").exists()
        changed = pictures / f"{chance.randrange(number):05}.png"
        PIL.Image.new("RGB", (chance.randrange(1, 60), 9), "red").save(changed)
    run_program("slow_folder", "embed", pictures, "-o", f"{out}/", "--weights", untrained_native)
    assert at_work > kills / 5
    rows = read(out)
    assert len(rows) == number
    check(rows, sorted(pictures.iterdir()), model)
