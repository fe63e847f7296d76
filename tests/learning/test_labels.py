"""Labels that are missing, multiple or in tables of all kinds, and pictures that are rotated or change while read."""

import hashlib
import os
from decimal import Decimal

import numpy as np
import PIL.Image
import pytest

import fastmnv2

pytest.importorskip("sklearn")

from fastmnv2.image.decode import Options
from fastmnv2.learn import dataset, features

NAN = float("nan")


def read(data):
    skipped = {}
    found = dataset.read(data, lambda path, why: skipped.update({os.path.basename(path): why}))
    labels = [tuple(np.array(found.classes)[row]) for row in found.members]
    return dict(zip(map(os.path.basename, found.paths), labels, strict=True)), skipped


def pandas_missing():
    pandas = pytest.importorskip("pandas")
    return [pandas.NA, pandas.NaT]


def arrow_missing():
    arrow = pytest.importorskip("pyarrow")
    return [arrow.scalar(None, "string"), arrow.scalar(NAN)]


OTHERS = {"pandas": pandas_missing, "arrow": arrow_missing}


@pytest.mark.parametrize(
    "missing",
    [
        None,
        NAN,
        np.float32("nan"),
        "nan",
        " NaN",
        "null",
        "pandas",
        "arrow",
        Decimal("nan"),
        np.array(NAN),
        np.ma.masked,
        np.datetime64("NaT"),
        np.array(None),
    ],
)
def test_missing_labels_are_skipped_with_a_reason(missing):
    for value in OTHERS[missing]() if isinstance(missing, str) and missing in OTHERS else [missing]:
        labels, skipped = read([("a", "x"), ("b", value), ("c", "y")])
        assert labels == {"a": ("x",), "c": ("y",)}
        assert skipped == {"b": "there is no label"}
        labels, _ = read([("a", ["x", value]), ("b", [value]), ("c", "y")])
        assert labels == {"a": ("x",), "b": (), "c": ("y",)}


def test_parquet_with_nulls(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    for labels, known in (
        (["x", None, "y"], {"a": ("x",), "c": ("y",)}),
        ([0.0, NAN, 1.0], {"a": ("0.0",), "c": ("1.0",)}),
        ([b"x", None, b"y"], {"a": ("x",), "c": ("y",)}),
    ):
        pyarrow.parquet.write_table(arrow.table({"path": ["a", "b", "c"], "label": labels}), tmp_path / "t.parquet")
        assert read(tmp_path / "t.parquet") == (known, {"b": "there is no label"})
    pyarrow.parquet.write_table(
        arrow.table({"path": ["a", None, "c"], "label": ["x", "y", "y"]}), tmp_path / "t.parquet"
    )
    assert read(tmp_path / "t.parquet") == ({"a": ("x",), "c": ("y",)}, {"row 2": "there is no path"})


@pytest.mark.parametrize("as_pairs", [dict, list, lambda pairs: [np.array(pair) for pair in pairs]])
def test_several_labels_in_pairs(as_pairs):
    pairs = [("a", "cat;outdoors"), ("b", "dog|outdoors"), ("c", "dog")]
    assert read(as_pairs(pairs))[0] == {"a": ("cat", "outdoors"), "b": ("dog", "outdoors"), "c": ("dog",)}


def test_scalars_of_other_libraries():
    arrow = pytest.importorskip("pyarrow")
    pairs = zip(arrow.array(["a", "b"]), [arrow.scalar("x"), np.array("y")], strict=True)
    assert read(pairs)[0] == {"a": ("x",), "b": ("y",)}
    assert read([("a", arrow.scalar(["x", "y"])), ("b", np.array(1)), ("c", np.array(b"x"))])[0] == {
        "a": ("x", "y"),
        "b": ("1",),
        "c": ("x",),
    }


def test_bytes_are_text():
    assert read([(b"a", b"x"), (os.fsencode("b"), "y")])[0] == {"a": ("x",), "b": ("y",)}


@pytest.mark.parametrize(
    ("text", "labels", "skipped"),
    [
        ("path,label\na.png,x\nb.png,y\n", {"a.png": ("x",), "b.png": ("y",)}, {}),
        ("a.png,x\nb.png,y\n", {"a.png": ("x",), "b.png": ("y",)}, {}),
        ("here,x\nb.png,y\n", {"here": ("x",), "b.png": ("y",)}, {}),
        ("name,kind\na.png,x\nb.png,y\n", {"a.png": ("x",), "b.png": ("y",)}, {}),
        ("path,label\na.png,x\nb.png,\nc.png\nd.png,y\n", {"a.png": ("x",), "d.png": ("y",)}, {"b.png", "c.png"}),
        ("path,label\na.png,x;y\nb.png,\nc.png,y\n", {"a.png": ("x", "y"), "b.png": (), "c.png": ("y",)}, {}),
        ("path,label\na.png,x\n,y\nc.png,y\n", {"a.png": ("x",), "c.png": ("y",)}, {"row 2"}),
        ("n,label,path\n1,x,a.png\n2,y,b.png\n", {"a.png": ("x",), "b.png": ("y",)}, {}),
    ],
)
def test_csv(tmp_path, text, labels, skipped):
    (tmp_path / "here").touch()
    (tmp_path / "t.csv").write_text(text)
    found, reasons = read(tmp_path / "t.csv")
    assert (found, set(reasons)) == (labels, set(skipped))


@pytest.mark.skipif(os.name == "nt", reason="symbolic links")
def test_linked_folders_of_a_class(tmp_path):
    for name in ("p/x", "p/y", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / f"{name[-1]}.png").touch()
    (tmp_path / "p" / "x" / "link").symlink_to(tmp_path / "elsewhere")
    labels, skipped = read(tmp_path / "p")
    assert (labels, list(skipped)) == ({"x.png": ("x",), "y.png": ("y",)}, ["link"])
    assert "--follow-links" in skipped["link"]
    found = dataset.read(tmp_path / "p", pytest.fail, follow_links=True)
    assert len(found.paths) == 3


def test_on_error_decides_about_pictures_without_a_label():
    data = [("a.png", None), ("b.png", "x"), ("c.png", NAN)]  # only one class, so the call fails after reading labels
    errors = []
    with pytest.raises(ValueError, match="at least two classes"):
        fastmnv2.learn.study(data, weights="untrained", on_error=errors.append)
    assert [(error.index, error.name, error.reason) for error in errors] == [
        (0, "a.png", "there is no label"),
        (1, "c.png", "there is no label"),
    ]
    with pytest.raises(fastmnv2.ImageError, match=r"a\.png: there is no label"):
        fastmnv2.learn.study(data, weights="untrained", on_error="raise")
    with pytest.raises(ValueError, match="at least two"), pytest.warns(UserWarning, match=r"skipped [ac]\.png: there"):
        fastmnv2.learn.study(data, weights="untrained")
    told = []
    with pytest.warns(DeprecationWarning, match="use on_error"), pytest.raises(ValueError, match="two classes"):
        fastmnv2.learn.train(data, weights="untrained", on_skip=lambda path, why: told.append((path, why)))
    assert told == [(error.name, error.reason) for error in errors]
    with pytest.raises(ValueError, match="on_error: expected 'raise', 'skip' or a function, got 'ignore'"):
        fastmnv2.learn.study(data, weights="untrained", on_error="ignore")


def test_names_too_long_for_the_file_are_refused_before_the_training(monkeypatch):
    monkeypatch.setattr(features, "compute", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(fastmnv2.WeightsError, match="names of classes"):
        fastmnv2.learn.study([("a", "x" * 600_000), ("b", "y" * 600_000)], weights="untrained", cache=None)


def test_names_of_many_classes_are_kept(tmp_path, monkeypatch, untrained_native):
    from fastmnv2.core.head import Head, Step

    classes = tuple(f"class {number} " + "猫" * 60 for number in range(600))
    folded = fastmnv2.load(untrained_native).folded.without_logits()
    layer = {"kernel": np.zeros((1280, 600), np.float32), "bias": np.zeros(600, np.float32)}
    import dataclasses

    model = fastmnv2.Model(dataclasses.replace(folded, head=Head((Step("dense", "learned", layer),), classes)))
    fastmnv2.learn.save(tmp_path / "m.safetensors", model)
    assert fastmnv2.load(tmp_path / "m.safetensors").classes == classes


# ---- pictures ----


@pytest.fixture
def model(untrained_native):
    return fastmnv2.load(untrained_native, threads=1)


def compute(model, paths, variants=features.VARIANTS, **how):
    return features.compute(model, "", [str(path) for path in paths], variants, place=None, skip=pytest.fail, **how)


def test_variants_are_made_from_the_rotated_picture(tmp_path, model):
    upright, turned = tmp_path / "upright.png", tmp_path / "turned.png"
    pixels = np.random.RandomState(0).randint(0, 256, (9, 14, 3)).astype(np.uint8)
    picture = PIL.Image.fromarray(pixels).resize((140, 90))
    exif = PIL.Image.Exif()
    exif[0x112] = 6
    picture.save(upright)
    picture.transpose(PIL.Image.Transpose.ROTATE_90).save(turned, exif=exif)
    x, hashes, rows = compute(model, [upright, turned])
    assert x.shape == (2, len(features.VARIANTS), 1280)
    np.testing.assert_array_equal(x[0], x[1])
    assert len({vector.tobytes() for vector in x[0]}) == len(features.VARIANTS)
    assert hashes[1] == hashlib.sha256(turned.read_bytes()).digest()
    assert rows.tolist() == [0, 1]
    other, _, _ = compute(model, [upright, turned], options=Options(exif=False))
    assert (other[0] == x[0]).all()
    assert all((a != b).any() for a, b in zip(other[1], x[1], strict=True))


def test_the_hash_belongs_to_the_decoded_bytes(tmp_path, model, monkeypatch):
    """A picture replaced between hashing and decoding must not have its vector cached under the old hash."""
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        PIL.Image.new("RGB", (50, 50), colour).save(tmp_path / name)
    red = compute(model, [tmp_path / "a.png"])[0]
    real = hashlib.sha256

    def sha256(data=b""):
        (tmp_path / "b.png").read_bytes() and (tmp_path / "a.png").write_bytes((tmp_path / "b.png").read_bytes())
        return real(data)

    monkeypatch.setattr(features.hashlib, "sha256", sha256)
    x, hashes, _ = compute(model, [tmp_path / "a.png"])
    np.testing.assert_array_equal(x, red)
    assert hashes[0] != real((tmp_path / "b.png").read_bytes()).digest()


def test_the_cache_distinguishes_all_options(tmp_path, model):
    PIL.Image.fromarray(np.random.RandomState(0).randint(0, 256, (60, 90, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    found = []
    for options in (Options(), Options(method="area"), Options(method="tf1"), Options()):
        x, _, _ = features.compute(
            model, "", [str(tmp_path / "a.png")], features.VARIANTS[:2], place=tmp_path / "kept", skip=pytest.fail,
            options=options,
        )  # fmt: skip
        found.append(x)
    assert (found[0] == found[3]).all()
    assert (found[0] != found[1]).any()
    assert (found[0] != found[2]).any()


def test_train_takes_the_decoding_options(tmp_path):
    from click.testing import CliRunner

    from fastmnv2.cli import cli

    for number in range(6):
        for name, colour in (("x", 40), ("y", 200)):
            (tmp_path / "p" / name).mkdir(parents=True, exist_ok=True)
            pixels = np.random.RandomState(number).randint(0, 50, (20, 30, 3)) + colour
            PIL.Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "p" / name / f"{number}.png")
    command = ["train", str(tmp_path / "p"), "-o", str(tmp_path / "m.safetensors"), "--weights", "untrained"]
    done = CliRunner().invoke(cli, [*command, "--no-cache", "--no-exif", "--method", "area", "--decode", "scaled"])
    assert done.exit_code == 0, done.output
    assert fastmnv2.load(tmp_path / "m.safetensors").classes == ("x", "y")
    done = CliRunner().invoke(cli, [*command, "--no-cache", "--max-pixels", "5", "--force"])
    assert done.exit_code == 1
    assert "at most 5 pixels" in done.output
