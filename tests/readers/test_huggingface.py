"""Hugging Face's folders, and names of published weights, load the networks that they name."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fastmnv2
from fastmnv2.core.network import BATCH_NORM, DEFAULT, of
from fastmnv2.weights import names
from fastmnv2.weights.fold import fold
from fastmnv2.weights.forms import huggingface, keras_names, native
from fastmnv2.weights.resolve import resolve
from fastmnv2.weights.untrained import untrained

CONFIG = {
    "model_type": "mobilenet_v2", "depth_multiplier": 0.35, "image_size": 96, "tf_padding": True,
    "layer_norm_eps": 0.001, "finegrained_output": True, "output_stride": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def source():
    return untrained(network=of(0.35, 96, 96))


def transformers_name(layer):
    """MobileNetV2ForImageClassification's name of a TF-Slim layer."""
    scope = layer.scope.removeprefix("MobilenetV2/")
    if scope in ("Conv", "Conv_1"):
        return {"Conv": "mobilenet_v2.conv_stem.first_conv", "Conv_1": "mobilenet_v2.conv_1x1"}[scope]
    block, part = scope.split("/")
    part = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}[part]
    number = block.removeprefix("expanded_conv").removeprefix("_")
    return f"mobilenet_v2.layer.{int(number) - 1}.{part}" if number else f"mobilenet_v2.conv_stem.{part}"


def write_safetensors(path, arrays):
    header, data = {}, b""
    for name, (kind, values) in arrays.items():
        header[name] = {
            "dtype": kind,
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + values.nbytes],
        }
        data += values.tobytes()
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def arrays_of(source, classifier=None):
    """TF-Slim's tensors in PyTorch's layouts."""
    found = {}
    for layer in source.network.layers[:-1]:
        name, kernel = transformers_name(layer), source.tensors[layer.weights_name]
        order = (2, 3, 0, 1) if layer.kind == "depthwise" else (3, 2, 0, 1)
        found[f"{name}.convolution.weight"] = "F32", np.ascontiguousarray(kernel.transpose(order))
        for own, slim in (
            ("weight", "gamma"), ("bias", "beta"), ("running_mean", "moving_mean"), ("running_var", "moving_variance"),
        ):  # fmt: skip
            found[f"{name}.normalization.{own}"] = "F32", source.tensors[f"{layer.scope}/BatchNorm/{slim}"]
        found[f"{name}.normalization.num_batches_tracked"] = "I64", np.array(7)
    logits = source.network.logits
    kernel, bias = classifier or (source.tensors[logits.weights_name][0, 0], source.tensors[logits.biases_name])
    found["classifier.weight"], found["classifier.bias"] = ("F32", np.ascontiguousarray(kernel.T)), ("F32", bias)
    return found


def make(folder, source, config=CONFIG, classifier=None, preprocessor=None):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    write_safetensors(folder / "model.safetensors", arrays_of(source, classifier))
    return folder


def same(a, b):
    assert a.network == b.network
    assert a.tensors.keys() == b.tensors.keys()
    assert all((a.tensors[name] == values).all() for name, values in b.tensors.items())


def test_a_folder_with_imagenets_classes(source, tmp_path):
    labels = ["background", *(f"class {index}" for index in range(1, 1001))]
    config = CONFIG | {"id2label": {str(index): label for index, label in enumerate(labels)}}
    folder = make(tmp_path / "model", source, config, preprocessor={"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    found = resolve(folder)
    same(found, fold(source))
    assert found.range == (-1.0, 1.0)
    model = fastmnv2.load(folder)
    assert model.has_logits
    assert model.classes == tuple(labels)
    native.write(tmp_path / "m.safetensors", found)
    assert fastmnv2.load(tmp_path / "m.safetensors").classes == tuple(labels)
    same(resolve(folder / "model.safetensors"), fold(source))


def test_a_fine_tuned_folder(source, tmp_path):
    kernel = np.random.RandomState(0).normal(0, 0.05, (1280, 2)).astype(np.float32)
    config = CONFIG | {"id2label": {"0": "cat", "1": "dog"}}
    folder = make(tmp_path / "model", source, config, (kernel, np.zeros(2, np.float32)))
    model, images = fastmnv2.load(folder), np.random.RandomState(1).randint(0, 256, (2, 96, 96, 3)).astype(np.uint8)
    assert model.classes == ("cat", "dog")
    np.testing.assert_allclose(model.predict(images), model.embed(images) @ kernel, rtol=1e-4, atol=1e-5)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(fastmnv2.WeightsError, match="pickles"):
        fastmnv2.load(folder)


def test_16_bit_types(source, tmp_path):
    folder = make(tmp_path / "model", source)
    arrays = arrays_of(source)
    for kind in ("F16", "BF16"):
        narrow = {}
        for name, (own, values) in arrays.items():
            if values.ndim != 4:
                narrow[name] = own, values
            elif kind == "F16":
                narrow[name] = kind, values.astype(np.float16)
            else:
                narrow[name] = kind, (values.view(np.uint32) >> 16).astype(np.uint16)
        write_safetensors(folder / "model.safetensors", narrow)
        found, want = resolve(folder).tensors, fold(source).tensors
        name = source.network.layers[5].weights_name
        np.testing.assert_allclose(found[name], want[name], rtol=0.01, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "preprocessor", "message"),
    [
        ({"tf_padding": False}, None, "tf_padding"),
        ({"layer_norm_eps": 1e-5}, None, "layer_norm_eps"),
        ({"model_type": "mobilenet_v1"}, None, "model_type"),
        ({"image_size": 31}, None, "31"),
        ({"image_size": {"height": 96}}, None, r"image_size: expected a number or \[height, width\], got \{"),
        ({}, {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}, "channels differently"),
    ],
)
def test_other_networks_are_refused(source, tmp_path, config, preprocessor, message):
    with pytest.raises(fastmnv2.WeightsError, match=message):
        fastmnv2.load(make(tmp_path / "model", source, CONFIG | config, preprocessor=preprocessor))


def test_the_preprocessor_gives_the_range(source, tmp_path):
    preprocessor = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "rescale_factor": 1 / 255}
    assert resolve(make(tmp_path / "model", source, preprocessor=preprocessor)).range == (0.0, 1.0)


def test_the_image_size(source, tmp_path):
    for name, told, size in (
        ("m", [64, 80], (64, 80)),
        ("m", None, (224, 224)),
        ("mobilenet_v2_0.35_96", None, (96, 96)),
    ):
        assert resolve(make(tmp_path / name, source, CONFIG | {"image_size": told})).size == size


def test_pickles_are_named_as_such(tmp_path):
    with zipfile.ZipFile(tmp_path / "mobilenet_v2.pth", "w") as archive:
        archive.writestr("mobilenet_v2/data.pkl", b"")
    with pytest.raises(fastmnv2.WeightsError, match="pickle of PyTorch's, which is never read"):
        fastmnv2.load(tmp_path / "mobilenet_v2.pth")


def test_torchvisions_names_are_another_network(tmp_path):
    for name in ("features.0.0.weight", "blocks.0.0.conv_dw.weight", "backbone.features.0.0.weight"):
        write_safetensors(tmp_path / "m.safetensors", {name: ("F32", np.zeros((32, 3, 3, 3), np.float32))})
        with pytest.raises(fastmnv2.WeightsError, match="torchvision or timm"):
            fastmnv2.load(tmp_path / "m.safetensors")


def test_hostile_headers(source, tmp_path):
    folder = make(tmp_path / "model", source)
    path, data = folder / "model.safetensors", (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])

    def rewritten(change):
        changed = json.loads(json.dumps(header))
        change(changed["mobilenet_v2.conv_1x1.convolution.weight"])
        text = json.dumps(changed).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])

    for change in (
        lambda entry: entry.update(shape=[1 << 40, 1]),
        lambda entry: entry.update(data_offsets=[0, -4]),
        lambda entry: entry.update(data_offsets="ab"),
        lambda entry: entry.update(shape=[[]]),
        lambda entry: entry.update(data_offsets=[len(data), 2 * len(data)]),
    ):
        rewritten(change)
        with pytest.raises(fastmnv2.WeightsError):
            fastmnv2.load(folder)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(fastmnv2.WeightsError):
        fastmnv2.load(folder)
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(fastmnv2.WeightsError):
        fastmnv2.load(folder)


def test_a_name_on_the_hub_is_looked_up_in_its_cache(source, tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    commit, repository = "a" * 40, tmp_path / "hub" / "models--some--network"
    make(tmp_path / "model", source)
    snapshot = repository / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    (tmp_path / "model").rename(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = huggingface.fetched("hf://some/network", download=False)
    assert Path(folder) == snapshot
    with pytest.raises(fastmnv2.WeightsUnavailable, match="downloads are disabled"):
        huggingface.fetched("hf://some/other", download=False)
    with pytest.raises(fastmnv2.WeightsError, match="organisation/name"):
        huggingface.fetched("hf://other", download=False)


# ---- names ----


def test_the_22_members():
    sizes = [96, 128, 160, 192, 224]
    members = {f"mobilenet_v2_{m}_{s}" for m in ("035", "050", "075", "100") for s in sizes}
    members |= {"mobilenet_v2_130_224", "mobilenet_v2_140_224"}
    assert len(members) == 22
    for name in members:
        assert names.published(name).network.name == name
        for kind, version in (("feature_vector", 5), ("classification", 1)):
            found = names.published(f"https://tfhub.dev/google/imagenet/{name}/{kind}/{version}")
            assert found.network.name == name
            assert found.classifier == (kind == "classification")
    for name in ("mobilenet_v2_140_96", "mobilenet_v2_060_96", "mobilenet_v1_100_224", "mobilenet_v2_100_224_"):
        assert names.published(name) is None
    assert names.published("mobilenet_v2_075_96").is_default


@pytest.mark.parametrize(
    ("handle", "name"),
    [
        ("https://tfhub.dev/google/imagenet/mobilenet_v2_100_224/feature_vector", "100_224"),
        ("http://tfhub.dev/google/imagenet/mobilenet_v2_140_224/classification/5/", "140_224_classification"),
        ("https://www.kaggle.com/models/google/mobilenet-v2/TensorFlow2/035-224-feature-vector/2", "035_224"),
        (
            "https://kaggle.com/models/google/mobilenet-v2/frameworks/tensorFlow1/variations/130-224-classification/"
            "versions/1?tfhub-redirect=true",
            "130_224_classification",
        ),
        ("google/mobilenet-v2/tensorFlow2/075-96-feature-vector", "075_96"),
        ("https://www.kaggle.com/models/google/mobilenet-v2/tensorFlow1/openimages-v4-ssd-mobilenet-v2/1", None),
        ("https://www.kaggle.com/models/google/mobilenet-v2/TensorFlow2/tf2-preview-feature-vector/4", None),
        ("https://tfhub.dev/google/imagenet/mobilenet_v2_100_224/quantops/feature_vector/3", None),
    ],
)
def test_spellings_of_handles(handle, name):
    found = names.published(handle)
    assert (found and found.name) == (name and f"mobilenet_v2_{name}")


def test_keras_file_names():
    start = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_"
    for middle, name in (
        ("0.5_160_no_top", "050_160"),
        ("1.0_224", "100_224_classification"),
        ("1.3_224", "130_224_cl"),
    ):
        found = names.published(f"{start}{middle}.h5")
        assert found.name.startswith(f"mobilenet_v2_{name}")
        assert found.urls[0].endswith(f"/{start}{middle}.h5")
        assert names.published(found.urls[0]).urls == found.urls
    assert names.published(f"{start}0.75_96_no_top.h5").network == DEFAULT


def test_a_name_is_not_answered_with_another_network(source, cache, tmp_path, monkeypatch):
    native.write(tmp_path / "n.safetensors", fold(source))
    monkeypatch.setenv("FASTMNV2_WEIGHTS", str(tmp_path / "n.safetensors"))
    same(resolve("imagenet"), fold(source))
    with pytest.raises(fastmnv2.WeightsError, match="expected mobilenet_v2_075_96, got mobilenet_v2_035_96"):
        resolve("mobilenet_v2_075_96")
    cache.mkdir(exist_ok=True)
    (cache / "mobilenet_v2_050_96.safetensors").write_bytes((tmp_path / "n.safetensors").read_bytes())
    with pytest.raises(fastmnv2.WeightsError, match="expected mobilenet_v2_050_96, got mobilenet_v2_035_96"):
        resolve("mobilenet_v2_050_96")


def test_the_size_of_a_name_needs_no_file(source, cache, monkeypatch):
    monkeypatch.delenv("FASTMNV2_WEIGHTS", raising=False)
    for size_of in (fastmnv2.get_expected_image_size, fastmnv2.hub.get_expected_image_size):
        assert size_of("imagenet") == size_of("mobilenet_v2_075_96") == (96, 96)
        assert size_of("https://tfhub.dev/google/imagenet/mobilenet_v2_140_224/feature_vector/5") == (224, 224)
    cache.mkdir(exist_ok=True)
    native.write(cache / "imagenet.safetensors", fold(replace(source, size=(64, 80))))
    assert fastmnv2.get_expected_image_size() == fastmnv2.get_expected_image_size("imagenet") == (64, 80)


@pytest.mark.parametrize("multiplier", [0.35, 0.75])
def test_keras_own_copy_is_used_for_keras_names(cache, tmp_path, monkeypatch, multiplier):
    h5py = pytest.importorskip("h5py")
    source = untrained(network=of(multiplier, 96, 96))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    name = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{multiplier}_96_no_top.h5"
    with h5py.File(tmp_path / "models" / name, "w") as file:
        for layer in source.network.layers[:-1]:
            kernel = "depthwise_kernel:0" if layer.kind == "depthwise" else "kernel:0"
            plain, norm = keras_names._keras_name(layer, norm=False), keras_names._keras_name(layer, norm=True)
            file[f"{plain}/{plain}/{kernel}"] = source.tensors[layer.weights_name]
            for part in BATCH_NORM:
                file[f"{norm}/{norm}/{part}:0"] = source.tensors[f"{layer.scope}/BatchNorm/{part}"]
    same(resolve(name, download=False), fold(source).without_logits())


@pytest.mark.parametrize(
    ("path", "size"),
    [
        ("mobilenet_v2_1.0_224/model.ckpt", 224),
        ("x/mobilenet_v2_0.35_96.tgz", 96),
        ("mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.75_160_no_top.h5", 160),
        ("mobilenet_v2_140_224/", 224),
        ("quantized_v2_192_100.tgz", 192),
        ("mobilenet_v2.ckpt", None),
        ("model_1.0_224.ckpt", None),
    ],
)
def test_sizes_in_names(path, size):
    assert names.size_in(Path(path)) == (size and (size, size))


def test_a_name_is_downloaded_once(server, cache, source, tmp_path, monkeypatch):
    native.write(tmp_path / "n.safetensors", fold(source))
    server.pages["/mobilenet_v2_035_96"] = 200, {}, (tmp_path / "n.safetensors").read_bytes()
    monkeypatch.setenv("FASTMNV2_URLS", server.url("/{name}"))
    for _ in range(2):
        same(resolve("mobilenet_v2_035_96"), fold(source))
    same(resolve("https://tfhub.dev/google/imagenet/mobilenet_v2_035_96/feature_vector/4"), fold(source))
    assert len(server.asked) == 1
    assert [path.name for path in cache.iterdir()] == ["mobilenet_v2_035_96.safetensors"]
    server.pages["/mobilenet_v2_050_96"] = server.pages["/mobilenet_v2_035_96"]
    with pytest.raises(fastmnv2.WeightsUnavailable, match="expected mobilenet_v2_050_96, got mobilenet_v2_035_96"):
        resolve("mobilenet_v2_050_96")
    with pytest.raises(fastmnv2.WeightsError, match="float32"):
        resolve("mobilenet_v2_035_96", precision="int8")
