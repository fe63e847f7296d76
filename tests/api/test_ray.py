"""Ray gives the same vectors and parts, also if a node is killed during a job."""

import json
import time

import numpy as np
import PIL.Image
import pytest

import fastmnv2
from fastmnv2 import image

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    source = np.random.RandomState(3).randint(0, 256, (60, 40, 50, 3)).astype(np.uint8)
    for i, array in enumerate(source):
        PIL.Image.fromarray(array).save(folder / f"{i:03}.png")
    return [str(path) for path in sorted(folder.iterdir())]


@pytest.fixture
def cluster():
    """A head node and two workers, each in its own processes.

    They also import from this process's working directory. The autouse fixtures make sure that it is not the checkout.
    """
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 200 << 20})
    found.workers = [found.add_node(num_cpus=1, object_store_memory=200 << 20) for _ in range(2)]
    ray.init(address=found.address, logging_level="error", log_to_driver=False)
    yield found
    ray.shutdown()
    found.shutdown()


def test_embedder_without_ray(paths, model):
    """The actor is a plain class, which works without Ray."""
    from fastmnv2.ray import ImageEmbedder

    batch = {"path": np.array([*paths[:3], "none.jpg"]), "other": np.arange(4)}
    found = ImageEmbedder(model, on_error="keep")(batch)
    with pytest.warns(DeprecationWarning, match="on_error"):
        former = ImageEmbedder(model, keep_errors=True)(batch)
    np.testing.assert_equal(former, found)
    np.testing.assert_array_equal(found["features"][:3], model.embed_images(paths[:3]))
    assert np.isnan(found["features"][3]).all()
    assert found["error"].tolist() == ["", "", "", "No such file or directory"]
    assert found["other"].tolist() == [0, 1, 2, 3]
    with pytest.raises(fastmnv2.ImageError, match=r"none\.jpg"):
        ImageEmbedder(model)(batch)


@pytest.mark.slow
def test_a_folder_with_a_node_killed_midway(paths, model, cluster, tmp_path, monkeypatch):
    import pyarrow.parquet

    from fastmnv2.image import jobs
    from fastmnv2.image.inputs import Pictures

    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    original = jobs.Parts.append

    def killing(self, row):
        if len(self.known) + len(self._rows) == 20 and len(cluster.workers) == 2:
            cluster.remove_node(cluster.workers.pop(), allow_graceful=False)
        time.sleep(0.02)
        original(self, row)

    monkeypatch.setattr(jobs.Parts, "append", killing)
    skipped = []
    pictures = Pictures([*paths, str(bad)], lambda *what: skipped.append(what), batch_size=4)
    counts = jobs.embed_to_folder(model, pictures, tmp_path / "out", jobs.Settings(engine="ray"))
    assert len(cluster.workers) == 1
    assert counts == {"pictures": 60, "new": 61, "errors": 1}
    assert [name for name, _ in skipped] == [str(bad)]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    rows = pyarrow.parquet.read_table(tmp_path / "out" / manifest["parts"][0]["file"]).to_pylist()
    assert sorted(row["path"] for row in rows) == sorted([*paths, str(bad)])
    for row in rows:
        if row["error"] is None:
            expected = model.embed(image.load_image(row["path"]))
            np.testing.assert_array_equal(np.float32(row["features"]), expected)
    again = Pictures(paths, lambda *what: None)
    assert jobs.embed_to_folder(model, again, tmp_path / "out", jobs.Settings()) == {"pictures": 60, "errors": 1}
