"""Files under 20 MB that demand much more memory or time are refused within 5 s of processor time and 200 MB."""

import sys

import pytest
from bombs import BOMBS
from processes import run_program

SECONDS, MEGABYTES = 5, 200


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
# Every fourth file is a quick test, because each one takes a process of its own and seconds.
@pytest.mark.parametrize(
    "bomb",
    [bomb if place % 4 == 0 else pytest.param(bomb, marks=pytest.mark.slow) for place, bomb in enumerate(BOMBS)],
    ids=lambda bomb: bomb.__name__,
)
def test_bombs(tmp_path, bomb):
    path = bomb(tmp_path)
    files = {file.stat().st_ino: file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()}
    assert sum(files.values()) < 20 << 20
    done = run_program("load_and_measure", path, check=False)
    if "needs h5py" in done.stderr:
        pytest.skip("h5py is not installed")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout, "it was not refused"
    seconds, megabytes, message = done.stdout.split(" ", 2)
    print(f"{seconds} s, {megabytes} MB: {message}")
    assert float(seconds) < SECONDS
    assert int(megabytes) < MEGABYTES
    assert len(message) < 1000
