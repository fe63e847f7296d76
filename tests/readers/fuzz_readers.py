"""Mutated weights files of every form: each must soon give a WeightsError or a complete, finite network.

    python tests/readers/fuzz_readers.py --runs 100000 [--form tflite] [--seed 1]

The original files are made for each run with TensorFlow and Keras, so none are in the repository. A file that breaks a
reader is printed with its mutations, and should become a case in test_hostile.py.
"""

import argparse
import collections
import random
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from fastmnv2.core.errors import WeightsError
from fastmnv2.weights import read
from fastmnv2.weights.fold import fold

LIMIT = 5.0  # seconds of processor time for each file
INTERESTING = [0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 254, 255]
SIZES = [0, 1, 0xFF, 0x100, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF, 1 << 62, 1 << 40]


def mutate(data: bytearray, rng: random.Random) -> list[str]:
    """Change ``data`` in one to six places, mostly near the ends, where headers are. Return a description."""
    changes = []
    for _ in range(rng.randint(1, 6)):
        if len(data) < 16:
            break
        span = min(len(data), rng.choice([64, 512, 4096, 65536, len(data)]))
        at = rng.randrange(span) if rng.random() < 0.5 else len(data) - 1 - rng.randrange(span)
        kind = rng.randrange(6)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.choice(INTERESTING)
        elif kind == 2:
            width = rng.choice([2, 4, 8])
            value = rng.choice(SIZES) & ((1 << 8 * width) - 1)
            data[at : at + width] = value.to_bytes(width, rng.choice(["little", "big"]))
        elif kind == 3:
            del data[at : at + rng.choice([1, 2, 4, 8, 100])]
        elif kind == 4:
            source = rng.randrange(len(data))
            length = rng.choice([1, 4, 8, 64])
            data[at:at] = data[source : source + length]
        else:
            del data[at:]
        changes.append(f"{kind}@{at}")
    return changes


def try_one(path: Path) -> str:
    """The result for the file: "complete", or the error's first words. Raises any other error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folded = fold(read(path))
    except WeightsError as error:
        return str(error).replace(str(path), "")[:30]
    assert all(np.isfinite(tensor).all() for tensor in folded.tensors.values())
    return "complete"


def fuzz(form: str, seed_file: Path, runs: int, seed: int) -> collections.Counter[str]:
    """Run ``runs`` mutations of one form's seed. For a bundle, only its index is mutated, not its data."""
    rng = random.Random(f"{form}{seed}")
    target = seed_file / "variables" / "variables.index" if seed_file.is_dir() else seed_file
    if form == "checkpoint":
        target = seed_file.with_name(seed_file.name + ".index")
    original = target.read_bytes()
    answers: collections.Counter[str] = collections.Counter()
    try:
        for run in range(runs):
            data = bytearray(original)
            changes = mutate(data, rng)
            target.write_bytes(data)
            start = time.process_time()
            try:
                answers[try_one(seed_file)] += 1
            except Exception as error:
                raise AssertionError(f"{form}, seed {seed}, run {run}, {changes}: {error!r}") from error
            spent = time.process_time() - start
            assert spent < LIMIT, f"{form}, seed {seed}, run {run}, {changes}: took {spent:.1f} s"
    finally:
        target.write_bytes(original)
    return answers


def main() -> None:
    from makers import make_forms

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="mutations of each form")
    parser.add_argument("--form", help="only this form")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for form, path in make_forms(Path(folder)).items():
            if options.form in (None, form):
                start = time.process_time()
                answers = fuzz(form, path, options.runs, options.seed)
                print(
                    f"{form}: {options.runs} runs in {time.process_time() - start:.0f} s, {len(answers)} answers",
                    flush=True,
                )
                for answer, count in answers.most_common(5):
                    print(f"    {count:>7} {answer}")


if __name__ == "__main__":
    main()
