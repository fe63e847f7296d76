"""The recipes of docs/clusters.md run as printed."""

import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "clusters.md"


def recipe(title):
    if not PAGE.exists():
        pytest.skip("no docs next to the tests")
    section = PAGE.read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


@pytest.fixture
def inputs(tmp_path, untrained_native):
    for i, array in enumerate(np.random.RandomState(3).randint(0, 256, (5, 40, 50, 3)).astype(np.uint8)):
        PIL.Image.fromarray(array).save(tmp_path / f"{i}.png")
    return {"paths": [str(path) for path in sorted(tmp_path.glob("*.png"))], "weights": str(untrained_native)}


def run_recipe(title, inputs, model):
    scope = dict(inputs)
    exec(recipe(title), scope)
    return scope, model.embed_images(inputs["paths"])


def test_dask(inputs, model):
    pytest.importorskip("dask")
    scope, expected = run_recipe("Dask", inputs, model)
    np.testing.assert_array_equal(scope["vectors"], expected)


@pytest.mark.slow
def test_spark(inputs, model, monkeypatch):
    pytest.importorskip("pyspark")
    pytest.importorskip("pandas")
    import shutil
    import sys

    if not shutil.which("java"):
        pytest.skip("Spark needs Java")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    scope, expected = run_recipe("Spark", inputs, model)
    found = {row.path: row.features for row in scope["rows"]}
    np.testing.assert_array_equal(np.float32([found[path] for path in inputs["paths"]]), expected)


@pytest.mark.slow
def test_ray(inputs, model):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, logging_level="error", log_to_driver=False)
    try:
        scope, expected = run_recipe("Ray", inputs, model)
    finally:
        ray.shutdown()
    found = {row["path"]: row["features"] for row in scope["rows"]}
    np.testing.assert_array_equal(np.float32([found[path] for path in inputs["paths"]]), expected)
