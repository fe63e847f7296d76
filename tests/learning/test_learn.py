"""A head trained on pictures is the regression that it claims to be, and its measures and report are right."""

import base64
import dataclasses
import io
import json
import re
import shutil
import subprocess

import numpy as np
import PIL.Image
import pytest

import fastmnv2

pytest.importorskip("sklearn")
COLOURS = ("blue", "green", "red")


def make_pictures(folder, count=60, size=(40, 50), seed=0, contrast=45):
    """A folder for each of three classes that differ in colour, with noise; some pictures are hard."""
    from PIL import Image

    rng = np.random.RandomState(seed)
    for number in range(count):
        label = number % 3
        picture = rng.randint(0, 120, (*size, 3)).astype(np.uint8)
        picture[..., 2 - label] += np.uint8(rng.randint(5, contrast))
        target = folder / COLOURS[label]
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(target / f"{number:04d}.png")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = make_pictures(tmp_path_factory.mktemp("pictures"))
    (folder / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (folder / "readme.txt").write_text("not a picture")
    return folder


def study(data, **how):
    from fastmnv2 import learn

    skipped = []
    outcome = learn.study(
        data, weights="untrained", cache=None, on_error=lambda error: skipped.append(error.name), **how
    )
    return outcome, skipped


@pytest.fixture(scope="module")
def outcome(pictures):
    return study(pictures)[0]


def test_a_folder_of_classes(pictures, outcome, tmp_path):
    found, skipped = study(pictures)
    assert [path.endswith("broken.png") for path in skipped] == [True]
    assert found.model.classes == COLOURS
    assert len(found.data.paths) == 60
    assert found.measures.accuracy > 0.8
    low, high = found.measures.interval
    assert 0.6 < low < found.measures.accuracy < high <= 1
    paths = sorted(pictures.glob("*/0*.png"))
    images = np.stack([fastmnv2.image.load_image(path) for path in paths])
    predicted = found.model.predict(images)
    assert predicted.shape == (60, 3)
    np.testing.assert_allclose(predicted.sum(1), 1, rtol=1e-6)
    labels = [path.parent.name for path in paths]
    assert np.mean([COLOURS[i] == label for i, label in zip(predicted.argmax(1), labels, strict=True)]) > 0.95
    assert (found.model.predict(images) == outcome.model.predict(images)).all()  # two trainings give the same
    found.save(tmp_path / "colours.safetensors")
    again = fastmnv2.load(tmp_path / "colours.safetensors")
    assert again.classes == COLOURS
    assert (again.predict(images) == predicted).all()


def test_the_head_is_the_regression(outcome):
    """Compared with scikit-learn's own pipeline on the same features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    images = [fastmnv2.image.load_image(path) for path in outcome.data.paths]
    features = fastmnv2.embed(np.stack(images), weights="untrained")
    labels = outcome.data.members.argmax(1)
    theirs = make_pipeline(
        StandardScaler(), LogisticRegression(C=outcome.strength, class_weight="balanced", max_iter=300, tol=1e-3)
    ).fit(features, labels)
    ours = outcome.model.predict(np.stack(images))
    np.testing.assert_allclose(ours, theirs.predict_proba(features), atol=5e-3)


@pytest.mark.parametrize(
    "form", ["csv", "pairs", *(pytest.param(form, marks=pytest.mark.slow) for form in ("tsv", "parquet", "dict"))]
)
def test_tables_and_pairs(pictures, form):
    paths = sorted(pictures.glob("*/0*.png"))
    labels = [path.parent.name for path in paths]
    here = [str(path.relative_to(pictures)) for path in paths]
    pairs, table = list(zip(paths, labels, strict=True)), pictures / f"t.{form}"
    if form == "csv":
        table.write_text("path,label\n" + "\n".join(f"{p},{c}" for p, c in zip(here, labels, strict=True)))
    elif form == "tsv":
        table.write_text("x\ty\n" + "\n".join(f"{p}\t{c}" for p, c in zip(here, labels, strict=True)))
    elif form == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"n": [1] * 60, "file": here, "class": labels}), table)
    try:
        found, _ = study({"pairs": pairs, "dict": dict(pairs)}.get(form, table))
    finally:
        table.unlink(missing_ok=True)
    assert found.model.classes == COLOURS
    assert found.measures.accuracy > 0.8


def test_several_labels(pictures):
    data = {}
    for number, path in enumerate(sorted(pictures.glob("*/0*.png"))):
        data[path] = [path.parent.name, "late"] if number % 2 else [path.parent.name]
    data[path] = []
    found, _ = study(data)
    assert found.model.classes == ("blue", "green", "late", "red")
    assert not found.data.exclusive
    image = fastmnv2.image.load_image(sorted(pictures.glob("red/0*.png"))[0])
    predicted = found.model.predict(image)
    assert predicted[3] > 0.5 > max(predicted[:2])
    from fastmnv2.learn import report

    assert "Confusion matrix" not in report.page(found)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nowhere", "no such folder"),
        ("empty", "at least two classes"),
        ("one.csv", "at least two classes"),
        ("columns.csv", "expected a column 'path' or 'file'"),
        ("binary.csv", "CSV table in UTF-8"),
        ("text.txt", "expected a folder of classes, or a table"),
        ("few.csv", "at least two readable pictures of each class, got b"),
        (5, "expected a folder, a table or pairs"),
        ([1, 2], "expected pairs"),
    ],
)
def test_unsuitable_data_are_refused(pictures, tmp_path, data, message):
    some = [str(path) for path in sorted(pictures.glob("*/0*.png"))[:3]]
    (tmp_path / "empty").mkdir()
    (tmp_path / "one.csv").write_text(f"path,label\n{some[0]},a\n{some[1]},a\n")
    (tmp_path / "columns.csv").write_text("a,b,c\n1,2,3\n")
    (tmp_path / "binary.csv").write_bytes(b"path,label\n\xff\xfe,a")
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "few.csv").write_text(f"path,label\n{some[0]},a\n{some[1]},a\n{some[2]},b\n")
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        study(tmp_path / data if isinstance(data, str) else data)
    for wrong in ({"folds": 1}, {"augment": "yes"}, {"class_weight": 3}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            study(pictures, **wrong)


def test_equal_files_share_a_fold(pictures, tmp_path):
    """Otherwise a held-out part would contain copies of training pictures."""
    from fastmnv2.learn import regression

    members = np.eye(2, dtype=bool)[np.arange(40) % 2]
    groups = [number // 4 for number in range(40)]
    for one in (members, members | (np.arange(40) % 7 == 0)[:, None]):
        parts = regression.folds(one, groups, 4, 0)
        assert sorted(np.concatenate(parts)) == list(range(40))
        where = {row: number for number, part in enumerate(parts) for row in part}
        assert all(len({where[row] for row in range(first, first + 4)}) == 1 for first in range(0, 40, 4))


def test_one_file_with_two_labels_is_reported(pictures, tmp_path):
    folder = shutil.copytree(pictures, tmp_path / "p")
    shutil.copy(next(folder.glob("red/0*.png")), folder / "blue" / "again.png")
    found, _ = study(folder)
    assert any("copies of another picture" in note for note in found.notes)


def test_features_are_cached_by_content(pictures, tmp_path, monkeypatch):
    from fastmnv2 import learn
    from fastmnv2.image import embed

    calls = []
    real = embed.vectors
    monkeypatch.setattr(
        embed,
        "vectors",
        lambda model, items, options, **how: calls.append(items := list(items)) or real(model, items, options, **how),
    )

    def study_counting(data, **how):
        calls.clear()
        found = learn.study(data, weights="untrained", cache=tmp_path / "kept", on_error=lambda _: None, **how)
        return found, sum(map(len, calls))

    first, computed = study_counting(pictures)
    assert computed == 61
    moved = shutil.copytree(pictures, tmp_path / "elsewhere")
    second, computed = study_counting(moved)
    assert computed == 1  # the broken picture
    assert (second.measures.probabilities == first.measures.probabilities).all()
    assert study_counting(pictures, method="tf1")[1] == 61
    (tmp_path / "kept").write_bytes(b"not a data base" * 100)
    assert (study_counting(pictures)[0].measures.probabilities == first.measures.probabilities).all()


@pytest.mark.slow
def test_augmented(pictures):
    found, _ = study(pictures, augment=True)
    assert found.augmented
    assert found.measures.probabilities.shape == (60, 3)
    assert any("mirror images" in note for note in found.notes)
    auto, _ = study(pictures, augment="auto")
    assert min(auto.losses.values()) <= min(study(pictures)[0].losses.values())


def test_measures():
    from sklearn.metrics import confusion_matrix, precision_score, recall_score

    from fastmnv2.learn.measures import Measures

    rng = np.random.RandomState(1)
    truth = rng.randint(0, 4, 200)
    probabilities = rng.dirichlet(np.ones(4), 200)
    probabilities[np.arange(200), truth] += 0.5
    probabilities /= probabilities.sum(1, keepdims=True)
    found = Measures(probabilities, np.eye(4, dtype=bool)[truth], True)
    predicted = probabilities.argmax(1)
    assert (found.confusion() == confusion_matrix(truth, predicted)).all()
    np.testing.assert_allclose([c.precision for c in found.classes()], precision_score(truth, predicted, average=None))
    np.testing.assert_allclose([c.recall for c in found.classes()], recall_score(truth, predicted, average=None))
    assert found.accuracy == np.mean(truth == predicted)
    assert sum(b.size for b in found.reliability()) == 200
    assert found.confused(1)[0][2] == (found.confusion() - np.diag(np.diag(found.confusion()))).max()
    worst = found.worst(1)[0]
    wrong = predicted != truth
    assert probabilities[worst, truth[worst]] == probabilities[wrong, truth[wrong]].min()
    low, high = Measures(np.eye(2)[[0] * 10], np.eye(2, dtype=bool)[[0] * 10], True).interval
    np.testing.assert_allclose((low, high), (0.7225, 1.0), atol=1e-4)  # 10 of 10


def browser():
    found = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
    return found or pytest.skip("no chromium is installed")


def test_the_report_in_a_browser(outcome, tmp_path):
    from PIL import Image

    from fastmnv2 import learn

    path = tmp_path / "report.html"
    learn.write_report(path, outcome)
    text = path.read_text()
    assert not re.search(r"(src|href)=[\"'](?!data:)", text)
    assert "<script" not in text
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shot = tmp_path / "shot.png"
    done = subprocess.run(
        [browser(), *options, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    for part in ('id="accuracy"', "predicted: ", 'id="reliability"', "<circle", f"{outcome.measures.accuracy:.1%}"):
        assert part in done.stdout, part
    subprocess.run(
        [browser(), *options, f"--screenshot={shot}", "--window-size=1000,1400", path.as_uri()],
        capture_output=True,
        timeout=120,
        check=True,
    )
    picture = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    assert picture.shape[:2] == (1400, 1000)
    greenish = (picture[..., 1] - picture[..., 0] > 30) & (picture[..., 1] - picture[..., 2] > 15)
    assert greenish.mean() > 0.003  # the browser has drawn the matrix and the curve


def test_names_in_the_report_are_text(outcome):
    import dataclasses

    from fastmnv2.learn import report

    names = ("<script>alert(1)</script>", "a&b", "\x1b[2Jred")
    odd = dataclasses.replace(outcome, data=dataclasses.replace(outcome.data, classes=names))
    page = report.page(odd)
    assert "<script" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;" in page


def test_the_reports_pictures_are_decoded_as_the_trainings(outcome, tmp_path, monkeypatch):
    from fastmnv2.image.decode import Options
    from fastmnv2.learn import report

    exif = PIL.Image.Exif()
    exif[0x112] = 6
    PIL.Image.new("RGB", (40, 20)).save(tmp_path / "turned.png", exif=exif)
    monkeypatch.setattr(type(outcome.measures), "worst", lambda _: [0])
    for how, size in ((outcome.options, (20, 40)), (Options(exif=False), (40, 20))):
        paths = [str(tmp_path / "turned.png"), *outcome.data.paths[1:]]
        odd = dataclasses.replace(outcome, data=dataclasses.replace(outcome.data, paths=paths), options=how)
        drawn = base64.b64decode(report.page(odd).partition("data:image/png;base64,")[2].partition('"')[0])
        assert PIL.Image.open(io.BytesIO(drawn)).size == size


def test_the_command_line(pictures, tmp_path):
    from click.testing import CliRunner

    from fastmnv2.cli import cli

    def command(*arguments, code=0):
        done = CliRunner().invoke(cli, list(map(str, arguments)))
        assert done.exit_code == code, done.output
        return done.output

    target, report = tmp_path / "colours.safetensors", tmp_path / "report.html"
    output = command("train", pictures, "-o", target, "--report", report, "--weights", "untrained", "--no-cache")
    assert re.search(r"accuracy \d+\.\d% \(\d+\.\d% to \d+\.\d%\)", output)
    assert "skipped" in output
    for name in COLOURS:
        assert re.search(rf"^{name} +20 ", output, re.MULTILINE)
    assert report.read_text().startswith("<!doctype html>")
    lines = command("classify", "--weights", target, "--top", 1, *sorted(pictures.glob("red/0*.png"))).splitlines()
    assert len(lines) == 20
    assert sum(line.split("\t")[1] == "red" for line in lines) >= 19
    assert "--force" in command("train", pictures, "-o", target, "--weights", "untrained", code=1)
    assert ".safetensors" in command("train", pictures, "-o", tmp_path / "x.npy", code=2)
    assert "no such folder" in command("train", tmp_path / "nowhere", "-o", tmp_path / "y.safetensors", code=1)


def test_eight_bit_features(pictures, real_tflite, tmp_path):
    """A head on int8 features is stored with the integer weights in one file."""
    from fastmnv2 import learn

    found = learn.study(pictures, weights=real_tflite, precision="int8", cache=None, on_error=lambda _: None)
    assert found.model.precision == "int8"
    assert found.measures.accuracy > 0.6
    found.save(tmp_path / "m.safetensors")
    again = fastmnv2.load(tmp_path / "m.safetensors")  # the file records the precision that its head was trained with
    assert again.precision == "int8"
    image = fastmnv2.image.load_image(found.data.paths[0])
    assert (again.predict(image) == found.model.predict(image)).all()
    assert again.classes == COLOURS
    other = fastmnv2.load(tmp_path / "m.safetensors", precision="float32")
    assert other.features_digest != again.features_digest
    from click.testing import CliRunner

    from fastmnv2.cli import cli

    command = ["classify", found.data.paths[0], "--weights", str(tmp_path / "m.safetensors"), "--json"]
    for options, model in (([], again), (["--precision", "float32"], other)):
        (entry,) = json.loads(CliRunner().invoke(cli, [*command, *options]).stdout)["classes"][:1]
        assert np.float32(entry["probability"]) == model.predict(image).max()
