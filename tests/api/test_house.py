"""Everything around the network accepts any member of the family, here multiplier 0.35 and images of 64 x 96."""

import numpy as np
import pytest

import fastmnv2
from fastmnv2.core.network import of
from fastmnv2.weights.fold import fold
from fastmnv2.weights.forms import native
from fastmnv2.weights.untrained import untrained

NETWORK = of(0.35, 64, 96)


@pytest.fixture(scope="module")
def folded():
    return fold(untrained(network=NETWORK))


@pytest.fixture(scope="module")
def path(folded, tmp_path_factory):
    target = tmp_path_factory.mktemp("member") / "member.safetensors"
    native.write(target, folded)
    return target


@pytest.fixture(scope="module")
def pixels():
    return np.random.RandomState(0).randint(0, 256, (6, *NETWORK.image_shape)).astype(np.uint8)


@pytest.fixture(scope="module")
def wanted(path, pixels):
    return fastmnv2.load(path).embed(pixels)


def test_other_sizes_are_refused_with_both_sizes(path):
    with pytest.raises(ValueError, match=r"expected shape \[n, 64, 96, 3\].*got shape \[2, 96, 64, 3\]; resize"):
        fastmnv2.load(path).embed(np.zeros((2, 96, 64, 3), np.uint8))
    with pytest.raises(ValueError, match=r"channels come last"):
        fastmnv2.load(path).embed(np.zeros((2, 3, 64, 96), np.uint8))
    with pytest.raises(ValueError, match=r"out: expected shape \[1, 1280\], got \[1, 1281\]"):
        fastmnv2.load(path).embed(np.zeros((1, 64, 96, 3), np.uint8), out=np.empty((1, 1281), np.float32))


def test_the_size_that_is_expected(path):
    assert fastmnv2.get_expected_image_size(path) == fastmnv2.get_expected_image_size(fastmnv2.load(path)) == (64, 96)
    module = fastmnv2.hub.Module(path)
    assert fastmnv2.hub.get_expected_image_size(module) == (64, 96)
    assert module.get_input_info_dict()["images"][1] == (None, 64, 96, 3)
    assert module.get_output_info_dict("image_feature_vector")["MobilenetV2/layer_1"][1] == (None, 32, 48, 16)


def test_info_names_the_network(path):
    assert fastmnv2.info(path)["weights"]["network"] == NETWORK.name


def test_quantize_at_another_size(path, pixels, tmp_path):
    fastmnv2.quantize(path, tmp_path / "q.safetensors", pixels[:, :, :64], size=64)
    assert fastmnv2.load(tmp_path / "q.safetensors", precision="int8").network == of(0.35, 64, 64)
    with pytest.raises(ValueError, match=r"\[n, 64, 96, 3\].*got shape \[6, 64, 64, 3\]"):
        fastmnv2.quantize(path, tmp_path / "r.safetensors", pixels[:, :, :64])


def test_the_command_line_takes_height_and_width(path, tmp_path):
    from click.testing import CliRunner

    from fastmnv2.cli import cli

    target = tmp_path / "other.safetensors"
    for size, network in (("96x64", of(0.35, 96, 64)), ("64", of(0.35, 64, 64))):
        done = CliRunner().invoke(cli, ["convert", str(path), str(target), "--size", size, "--force"])
        assert done.exit_code == 0, done.output
        assert fastmnv2.load(target).network == network
    for wrong in ("64x", "1x2x3", "wide"):
        done = CliRunner().invoke(cli, ["convert", str(path), str(target), "--size", wrong, "--force"])
        assert done.exit_code == 2
        assert "such as 64x96" in done.output


def test_the_transformer(path, pixels, wanted):
    pytest.importorskip("sklearn")
    from sklearn.base import clone

    from fastmnv2.sklearn import Embedder

    embedder = clone(Embedder(path))
    assert np.array_equal(embedder.fit_transform(pixels), wanted)
    assert len(embedder.get_feature_names_out()) == NETWORK.features
    other = clone(Embedder(path, size=64, crop="center"))
    model = fastmnv2.load(path, size=64)
    assert np.array_equal(other.transform(pixels), model.embed_images(list(pixels), crop="center"))


def test_training_on_features(path, tmp_path):
    pytest.importorskip("scipy")
    image = pytest.importorskip("PIL.Image")
    random = np.random.RandomState(1)
    for number in range(20):
        picture = random.randint(0, 120, (40, 50, 3)).astype(np.uint8)
        picture[..., number % 2] += 100
        folder = tmp_path / "pictures" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image.fromarray(picture).save(folder / f"{number}.png")
    cache = tmp_path / "features.sqlite"
    for size in ((64, 96), (64, 64)):  # equal weights and pictures: the cache must distinguish sizes
        native.write(tmp_path / "w.safetensors", fold(untrained(network=of(0.35, *size))))
        study = fastmnv2.learn.study(tmp_path / "pictures", weights=tmp_path / "w.safetensors", cache=cache)
        study.save(tmp_path / "head.safetensors")
        model = fastmnv2.load(tmp_path / "head.safetensors")
        assert model.network == of(0.35, *size)
        assert model.classes == ("a", "b")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".keras", ".h5", ".tflite", ""])
def test_exports_are_read_back(path, pixels, wanted, tmp_path, suffix):
    pytest.importorskip("tensorflow")
    from fastmnv2 import export
    from fastmnv2.weights.resolve import adapted

    export.write(tmp_path / f"member{suffix}", adapted(path))
    model = fastmnv2.load(tmp_path / f"member{suffix}")
    assert model.network == NETWORK
    assert np.linalg.norm(model.embed(pixels) - wanted) < 1e-5 * np.linalg.norm(wanted)


@pytest.mark.slow
def test_fine_tuning(path, pixels, tmp_path):
    pytest.importorskip("keras")
    from fastmnv2 import keras

    model = keras.build(path, head=2, size=(64, 64))
    keras.calibrate(model, pixels[:, :, :64])
    keras.freeze(model)
    keras.unfreeze(model, top=4)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(pixels[:, :, :64], np.arange(6) % 2, verbose=0)
    model.save(tmp_path / "tuned.keras")
    for tuned in (fastmnv2.load(model), fastmnv2.load(tmp_path / "tuned.keras")):
        assert tuned.network == of(0.35, 64, 64)
        assert np.allclose(tuned.predict(pixels[:, :, :64]), model(pixels[:, :, :64]), atol=1e-4)
    with pytest.raises(ValueError, match="no network for images of 16 x 16"):
        keras.build(path, size=16)
