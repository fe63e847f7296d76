"""Time to train a classifier on a thousand pictures, with decoding: ``python -m pytest benches/bench_learn.py``."""

import numpy as np
import pytest


def bench_a_thousand_pictures(benchmark, tmp_path):
    learn = pytest.importorskip("fastmnv2.learn")
    image = pytest.importorskip("PIL.Image")
    rng = np.random.RandomState(0)
    for number in range(1000):
        picture = rng.randint(0, 120, (96, 96, 3)).astype(np.uint8)
        picture[..., number % 3] += 40
        folder = tmp_path / "abc"[number % 3]
        folder.mkdir(exist_ok=True)
        image.fromarray(picture).save(folder / f"{number}.png")
    benchmark.pedantic(learn.study, [tmp_path], {"weights": "untrained", "cache": None}, rounds=3, warmup_rounds=1)
