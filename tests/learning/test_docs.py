"""Runs every line of Python and every fastmnv2 command in README and docs/, and checks every link."""

import importlib
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from build_c import locked

import fastmnv2
from fastmnv2.weights.untrained import untrained

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(python|sh)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Pages whose lines need no other page. tests/api/test_recipes.py runs those of docs/clusters.md.
PAGES = {"README.md": 1, "docs/learning.md": 3, "docs/pictures.md": 1, "docs/weights.md": 2}
NOT_HERE = "mobilenet_v2_1.0_224"  # Hugging Face's model, which is not in `place`
ELSEWHERE = ("pip install", "RAY_ADDRESS=")  # .ci/run runs the first, tests/api/test_ray.py the second


def page(name):
    path = ROOT / name
    return path.read_text() if path.is_file() else pytest.skip(f"no {name} next to the tests")


@pytest.fixture(scope="module")
def variables():
    return {name: value for name, value in untrained(seed=6).tensors.items() if "Logits" not in name}


@pytest.fixture(scope="module")
def place(variables, tmp_path_factory):
    """A folder with a module and pictures."""
    from make_module import make_module
    from PIL import Image

    folder = tmp_path_factory.mktemp("docs")
    make_module(folder / "module", variables)
    rng = np.random.RandomState(0)
    for number in range(24):
        picture = rng.randint(0, 120, (96, 96, 3)).astype(np.uint8)
        picture[..., number % 3] += 90
        for part in (f"flowers/{'abc'[number % 3]}", "photos", *(["new"] if number < 3 else [])):
            (folder / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / part / f"{number:02d}.png")
    return folder


def make_others(place, module, variables):
    """Make the other files that lines of the pages name, with the libraries that usually make them."""
    import int8_files
    import keras
    from keras_model import keras_model
    from make_module import make_checkpoint

    from fastmnv2 import export
    from fastmnv2.weights.resolve import resolve_source

    source = resolve_source(module)
    for name in ("saved_model", "mobilenet.tflite", "imagenet.safetensors"):
        export.write(place / name, source)
    int8_files.write(place / "quantised.tflite", 1, np.uint8)
    make_checkpoint(place / "mobilenet_v2_0.75_96.ckpt", variables)
    network = keras_model(variables)
    network.save_weights(place / "mobilenet.weights.h5")
    network.save_weights(place / "mine.weights.h5")
    keras.Model(network.input, keras.layers.Dense(3, "softmax")(network.output)).save(place / "mine.keras")
    layers = keras.layers
    network = keras.applications.MobileNetV2((224, 224, 3), alpha=0.35, include_top=False, weights=None)
    body = keras.Sequential([network, layers.GlobalAveragePooling2D()])
    head = keras.Sequential([layers.Dense(100, "relu"), layers.Dense(3, "softmax", use_bias=False)])
    keras.Sequential([keras.Input((224, 224, 3)), body, head]).save(place / "keras_model.h5")  # Teachable Machine's


@pytest.fixture(scope="module")
def whole_place(place, variables, tmp_path_factory):
    """The folder with other libraries' files, which take half a minute. The first test process makes them for all."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    with locked(root / "others.lock"):
        if not (root / "others").exists():
            folder = tmp_path_factory.mktemp("others")
            make_others(folder, place / "module", variables)
            folder.rename(root / "others")
    shutil.copytree(root / "others", place, dirs_exist_ok=True)


@pytest.fixture
def names(place, monkeypatch):
    """The names that the lines may use without defining them."""
    monkeypatch.chdir(place)
    paths = sorted(map(str, Path("photos").glob("*.png")))
    images = np.stack([fastmnv2.image.load_image(path) for path in paths])
    pixels = np.round(images * 255).astype(np.uint8)
    labels = np.arange(len(paths)) % 3
    return {"fastmnv2": fastmnv2, "images": images, "pixels": pixels, "paths": paths, "labels": labels}


@pytest.fixture
def all_names(whole_place, names):
    """The same names and Keras, in the folder that has every file."""
    import keras

    return names | {"keras": keras}


def run_lines(code, names):
    exec(compile(code, "<the page>", "exec"), names)


def command(line):
    """Run one line of a shell block."""
    from click.testing import CliRunner

    from fastmnv2.cli import cli

    source, _, line = line.rpartition(" | ")
    stdin = subprocess.run(source, shell=True, capture_output=True, check=True).stdout if source else None
    program, *words = shlex.split(line, comments=True)
    assert program == "fastmnv2", line
    words += {"train": ["--no-cache"], "convert": ["--force"], "embed": ["--force"]}.get(words[0], [])
    done = CliRunner().invoke(cli, words, input=stdin)
    assert done.exit_code == 0, (line, done.output)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_the_lines_of_a_page(name, all_names, monkeypatch):
    monkeypatch.setenv("FASTMNV2_WEIGHTS", "mine.keras" if name == "README.md" else "module")
    blocks = BLOCK.findall(page(name))
    assert len([1 for kind, _, _ in blocks if kind == "python"]) == PAGES[name]
    for kind, _, code in blocks:
        if kind == "python":
            run_lines(code, all_names)
            continue
        for line in code.splitlines():
            if not line.startswith(ELSEWHERE):
                command(line)
    if name == "docs/learning.md":
        assert Path("report.html").is_file()
        assert all_names["probabilities"].shape == (24, 3)
        assert all_names["classifier"].score(all_names["paths"], all_names["labels"]) > 0.9
    if name == "docs/pictures.md":
        assert list(all_names["features"].shape) == [24, 1280]
        assert [Path(path).name for path in all_names["paths"]] == [f"{number:02d}.png" for number in range(24)]


@pytest.mark.slow
def test_every_file_of_the_readmes_table(all_names, monkeypatch):
    """Each line loads one kind of file and gives a model that takes pictures."""
    monkeypatch.setenv("FASTMNV2_WEIGHTS", "module")
    lines = re.findall(r"^\| .* \| `(model = .*)` \|$", page("README.md"), re.MULTILINE)
    assert len(lines) == 11
    for line in lines:
        if NOT_HERE not in line:
            run_lines(line, all_names)
            features = all_names["model"].embed_images(all_names["paths"][:2])
            assert np.isfinite(features).all(), line


def test_every_link_has_a_target():
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = re.sub(r"^```.*?^```", "", page(path.relative_to(ROOT)), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)]+)\)", text):
            place, _, heading = target.partition("#")
            found = path.parent / (place or path.name)
            assert found.exists(), (path.name, target)
            headings = re.findall(r"^#+ (.*)", found.read_text(), re.MULTILINE) if heading else []
            assert heading in ["", *(title.lower().replace(" ", "-") for title in headings)], (path.name, target)


def test_the_readme_stays_short():
    assert len(page("README.md").splitlines()) <= 120


def sections():
    text = (ROOT / "docs" / "migration.md").read_text() if (ROOT / "docs").is_dir() else ""
    return {part.split("\n")[0]: part for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]}


def test_every_section_has_lines_before_and_after():
    page("docs/migration.md")
    for title, part in sections().items():
        assert [info.split()[0] for _, info, _ in BLOCK.findall(part)] == ["before", "after"], title
    assert len(sections()) == 7


def skip_without(needs):
    """Skip the test if a module, or ``module:attribute``, that the lines need is missing."""
    sys.modules.setdefault("pkg_resources", types.SimpleNamespace(parse_version=lambda text: text))
    name, _, attribute = needs.partition(":")
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name} is not installed: {error}")
    if attribute and not hasattr(module, attribute):
        pytest.skip(f"this {name} has no {attribute} any more")


def lines_after(title):
    return BLOCK.findall(sections()[title])[1][2]


def of_the_module(title):
    return '"module"' in lines_after(title)


def check_lines_after(title, names):
    run_lines(lines_after(title), names)
    if "features" in names:
        want = fastmnv2.embed(names["images"], weights="module")
        assert np.linalg.norm(names["features"] - want) <= 5e-6 * np.linalg.norm(want)
    else:
        assert len(names["vectors"]) == len(names["paths"])


@pytest.mark.parametrize("title", list(filter(of_the_module, sections())))
def test_the_lines_after(title, names):
    check_lines_after(title, names)


@pytest.mark.slow
@pytest.mark.parametrize("title", list(itertools.filterfalse(of_the_module, sections())))
def test_the_lines_after_with_other_files(title, all_names):
    check_lines_after(title, all_names)


@pytest.mark.slow
@pytest.mark.parametrize("title", sections())
def test_the_lines_before_give_the_same(title, all_names):
    _, info, code = BLOCK.findall(sections()[title])[0]
    skip_without(re.search(r"needs=(\S+)", info)[1])
    run_lines(code, all_names)
    if "features" in all_names:
        want = fastmnv2.embed(all_names["images"], weights="module")
        assert np.linalg.norm(np.asarray(all_names["features"]) - want) <= 1e-5 * np.linalg.norm(want)


def test_the_modules_calls(place, names):
    from fastmnv2 import hub

    module = hub.Module(str(place / "module"))
    images = names["images"]
    assert hub.get_expected_image_size(module) == (96, 96)
    assert hub.get_num_image_channels(module) == 3
    assert module.get_signature_names() == ["default", "image_feature_vector"]
    assert (module(images) == module({"images": images}, signature="image_feature_vector")).all()
    assert list(module(images, as_dict=True)) == ["default"]
    assert len(module(images, signature="image_feature_vector", as_dict=True)) == 71
    assert module.get_input_info_dict()["images"][1] == (None, 96, 96, 3)
    assert module.get_output_info_dict()["default"][1] == (None, 1280)
    assert hub.load(place / "module")(images).shape == (24, 1280)
    with_logits = hub.Module("untrained")
    assert with_logits(images, signature="image_classification").shape == (24, 1001)
    outputs = with_logits(images, signature="image_classification", as_dict=True)
    assert outputs["default"].shape == (24, 1001)
    for wrong in ({"signature": "image_classification"}, {"signature": "x"}):
        with pytest.raises(ValueError, match="signature: expected"):
            module(images, **wrong)
    with pytest.raises(ValueError, match="expected the name 'images'"):
        module({"pictures": images})
    for wrong in ({"trainable": True}, {"tags": {"train"}}):
        with pytest.raises(ValueError, match=r"fastmnv2\.keras"):
            hub.Module("untrained", **wrong)


def test_the_package_itself_stays_small():
    """``import fastmnv2`` imports no optional package such as Keras or scikit-learn."""
    import subprocess

    code = (
        "import sys, fastmnv2; heavy = {'keras', 'tensorflow', 'sklearn', 'PIL', 'onnx', 'click', 'sqlite3'}; "
        "print(sorted(heavy & set(sys.modules)), hasattr(fastmnv2, 'load'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] True"
