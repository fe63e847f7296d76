"""The scikit-learn transformer gives embed's vectors and passes scikit-learn's own checks."""

import pickle

import numpy as np
import pytest

import fastmnv2

sklearn = pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Sixty picture files of three classes that differ in colour; paths and labels."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.RandomState(0)
    paths, labels = [], np.arange(60) % 3
    for number, label in enumerate(labels):
        picture = rng.randint(0, 120, (40, 50, 3)).astype(np.uint8)
        picture[..., label] += 90
        paths.append(str(folder / f"{number}.png"))
        Image.fromarray(picture).save(paths[-1])
    return paths, labels


def embedder(**how):
    from fastmnv2.sklearn import Embedder

    return Embedder("untrained", **how)


def test_kinds_of_input(task, images, tmp_path):
    import pandas as pd

    paths, _ = task
    want = fastmnv2.embed_images(paths[:5], weights="untrained")
    for column in (paths[:5], np.array(paths[:5]), np.array(paths[:5], object)[:, None], pd.Series(paths[:5])):
        assert (embedder().transform(column) == want).all()
    assert (embedder().fit_transform(pd.DataFrame({"path": paths[:5]})) == want).all()
    assert (embedder().transform(images) == fastmnv2.embed(images, weights="untrained")).all()
    model = fastmnv2.load("untrained")
    assert (embedder().set_params(weights=model).transform(images) == model.embed(images)).all()
    normal = embedder(normalize=True).transform(paths[:5])
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, rtol=1e-6)
    assert (embedder(method="tf1").transform(paths[:2]) != want[:2]).any()
    for wrong in (np.zeros((3, 5)), np.array([["a", "b"]])):
        with pytest.raises(ValueError, match="X: expected"):
            embedder().transform(wrong)
    with pytest.raises(FileNotFoundError):
        embedder().set_params(weights=str(tmp_path / "nothing")).fit(paths)


def test_options_for_pictures(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x112] = 6
    pixels = np.random.RandomState(0).randint(0, 256, (40, 60, 4)).astype(np.uint8)
    path = str(tmp_path / "turned.png")
    Image.fromarray(pixels).save(path, exif=exif)
    plain = embedder().transform([path])
    for how in ({"exif": False}, {"background": "white"}, {"crop": "center"}, {"method": "area"}):
        found = embedder(**how).transform([path])
        np.testing.assert_array_equal(found, fastmnv2.embed_images([path], weights="untrained", **how))
        assert not np.array_equal(found, plain), how
    with pytest.raises(fastmnv2.ImageError, match="at most 99 pixels"):
        embedder(max_pixels=99).transform([path])
    with pytest.raises(ValueError, match="decode: expected"):
        embedder(decode="some").transform([path])


# The checks that work without a two-dimensional X. check_estimator would run only the first of them.
CHECKS = [
    "check_estimator_cloneable",
    "check_no_attributes_set_in_init",
    "check_do_not_raise_errors_in_init_or_set_param",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_estimator_repr",
    "check_valid_tag_types",
    "check_estimator_tags_renamed",
    "check_mixin_order",
]


def test_scikit_learns_own_checks():
    from sklearn.utils import estimator_checks

    from fastmnv2.sklearn import Embedder

    results = estimator_checks.check_estimator(embedder(), on_skip=None)
    assert [entry["status"] for entry in results if entry["status"] != "skipped"] == ["passed"]
    known = [check for check in CHECKS if hasattr(estimator_checks, check)]
    assert len(known) >= 8
    for check in known:
        getattr(estimator_checks, check)("Embedder", Embedder("untrained"))


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_frames_out(task, kind):
    library = pytest.importorskip(kind)
    paths, _ = task
    frame = embedder().set_output(transform=kind).fit_transform(paths[:4])
    assert isinstance(frame, library.DataFrame)
    assert list(frame.columns) == [f"embedder{i}" for i in range(1280)] == list(embedder().get_feature_names_out())
    assert (frame.to_numpy() == embedder().transform(paths[:4])).all()


def test_clones_and_pickles(task):
    from sklearn.base import clone

    paths, _ = task
    first = embedder(method="tf1", normalize=True)
    want = first.transform(paths[:3])
    assert clone(first).get_params() == first.get_params()
    data = pickle.dumps(first)
    assert len(data) < 1000
    assert (pickle.loads(data).transform(paths[:3]) == want).all()
    with_model = embedder().set_params(weights=fastmnv2.load("untrained"))
    again = pickle.loads(pickle.dumps(with_model))
    assert (again.transform(paths[:3]) == with_model.transform(paths[:3])).all()


@pytest.mark.slow
def test_in_a_search_with_workers(task):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    paths, labels = task
    pipeline = make_pipeline(embedder(threads=1), LogisticRegression(max_iter=500))
    grid = {"embedder__normalize": [False, True], "logisticregression__C": [0.01, 1]}
    search = GridSearchCV(pipeline, grid, n_jobs=2, cv=2, error_score="raise").fit(paths, labels)
    assert search.best_score_ > 0.9
    assert search.predict(paths[:6]).shape == (6,)
