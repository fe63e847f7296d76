"""The Keras model for training equals the module's training graph and loads back as a fast model."""

import numpy as np
import pytest
from reference import forward

import fastmnv2
from fastmnv2.core.network import BATCH_NORM, DEFAULT
from fastmnv2.weights import Source
from fastmnv2.weights.fold import fold
from fastmnv2.weights.resolve import resolve
from fastmnv2.weights.untrained import untrained


@pytest.fixture(scope="module")
def batch():
    """Sixteen images with the spectrum of photographs."""
    from fastmnv2.weights.untrained import _images

    return _images(np.random.RandomState(41), 16).astype(np.float32)


@pytest.fixture(scope="module")
def variables():
    return untrained(seed=3).tensors


@pytest.fixture(scope="module")
def module(tmp_path_factory, variables):
    from make_module import make_module

    return make_module(tmp_path_factory.mktemp("hub") / "module", variables)


def norms_of(model):
    """The model's batch norm variables by TF-Slim's names."""
    from fastmnv2.keras import names_of

    found = {}
    for layer in DEFAULT.layers[:-1]:
        values = model.get_layer(names_of(layer)[1]).get_weights()
        found |= {f"{layer.scope}/BatchNorm/{name}": value for name, value in zip(BATCH_NORM, values, strict=True)}
    return found


def run_train_graph(folder, images):
    """Features of the hub module's {"train"} graph, and the moving statistics after its UPDATE_OPS."""
    import tensorflow as tf

    tf1 = tf.compat.v1
    with tf.Graph().as_default(), tf1.Session() as session:
        meta = tf1.saved_model.load(session, ["train"], str(folder))
        signature = meta.signature_def["default"]
        feed = {signature.inputs["images"].name: images}
        features = session.run(signature.outputs["default"].name, feed)
        session.run(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS), feed)
        return features, session.run({v.name[:-2]: v for v in tf1.global_variables() if "moving_" in v.name})


def relative(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def furthest(moved, want, variables, kind):
    """The largest relative difference between two steps of the layers' moving statistics."""
    names = [name for name in want if name.endswith(kind)]
    return max(relative(moved[name] - variables[name], want[name] - variables[name]) for name in names)


def test_training_mode_is_the_modules_train_graph(module, variables, batch):
    """As close to the graph as the graph is to itself with the batch in another order, which is float32's noise."""
    from fastmnv2 import keras

    features, moved = run_train_graph(module, batch)
    order = np.random.RandomState(0).permutation(len(batch))
    again, moved_again = run_train_graph(module, batch[order])
    model = keras.build(module)
    ours = np.asarray(model(batch, training=True))
    assert relative(ours, features) <= 4 * relative(again, features[order]) <= 1e-4
    assert len(model.trainable_variables) == 156
    norms = norms_of(model)
    for kind in ("moving_mean", "moving_variance"):
        noise = furthest(moved_again, moved, variables, kind)
        assert furthest(norms, moved, variables, kind) <= 4 * noise, kind
    for name in set(norms) - set(moved):  # trained only by gradients
        assert (norms[name] == variables[name]).all()


@pytest.mark.slow
def test_keras_own_batch_norm_differs_too_much(module, variables, batch, monkeypatch):
    import keras as real_keras

    from fastmnv2 import keras

    _, moved = run_train_graph(module, batch)
    _, moved_again = run_train_graph(module, batch[::-1])
    monkeypatch.setattr(keras, "BatchNormalization", real_keras.layers.BatchNormalization)
    model = keras.build(module)
    model(batch, training=True)
    noise = furthest(moved_again, moved, variables, "moving_variance")
    assert furthest(norms_of(model), moved, variables, "moving_variance") > 10 * noise


@pytest.mark.slow
def test_inference_is_the_network(module, variables, batch):
    from fastmnv2 import keras

    model = keras.build(module)
    truth = forward(variables, batch)["default"]
    assert relative(np.asarray(model(batch)), truth) <= 5e-6
    assert relative(fastmnv2.load(model).embed(batch), truth) <= 5e-6
    assert (fastmnv2.load(model).embed(batch) == fastmnv2.load(module).embed(batch)).all()
    pixels = np.round(batch * 255).astype(np.uint8)
    unit = pixels * np.float32(1 / 255)
    assert relative(np.asarray(model(pixels)), np.asarray(model(unit))) <= 5e-6
    assert relative(model.predict(pixels, verbose=0), np.asarray(model(unit))) <= 5e-6


def test_regularisation_losses_are_those_of_tf_slim(module, variables):
    """35 losses of 4e-5 * sum(w * w) / 2, one for every convolution except the depthwise ones."""
    from fastmnv2 import keras

    model = keras.build(module)
    want = [
        4e-5 * np.sum(variables[layer.weights_name].astype(np.float64) ** 2) / 2
        for layer in DEFAULT.layers[:-1]
        if layer.kind != "depthwise"
    ]
    assert len(model.losses) == len(want) == 35
    np.testing.assert_allclose(sorted(map(float, model.losses)), sorted(want), rtol=1e-5)
    assert keras.build(module, weight_decay=0).losses == []


def test_folded_weights_get_norms_that_change_nothing(variables, batch):
    from fastmnv2 import keras

    folded = fold(Source("hub", "test", "", variables))
    model = keras.build(Source("native", "test", "", folded.tensors))
    back = resolve(model)
    for layer in DEFAULT.layers[:-1]:
        for name in (layer.weights_name, layer.biases_name):
            assert (back.tensors[name] == folded.tensors[name]).all(), name
    truth = forward(variables, batch)["default"]
    assert relative(np.asarray(model(batch)), truth) <= 1e-5


@pytest.mark.slow
def test_calibrated_norms_keep_what_is_computed(variables, batch):
    """Calibrated folded weights give the same outputs at inference, and nearly the same in training mode."""
    from fastmnv2 import keras

    folded = fold(Source("hub", "test", "", variables))
    model = keras.build(Source("native", "test", "", folded.tensors))
    want = np.asarray(model(batch))
    jump = relative(np.asarray(keras.build(Source("native", "test", "", folded.tensors))(batch, training=True)), want)
    keras.calibrate(model, batch, batch_size=7)
    assert relative(np.asarray(model(batch)), want) <= 2e-5
    assert relative(fastmnv2.load(model).embed(batch), want) <= 2e-5
    near = relative(np.asarray(model(batch, training=True)), want)
    assert near < 1e-3
    assert jump > 0.1


@pytest.mark.slow
def test_heads_and_trainable_layers(batch):
    import keras as real_keras

    from fastmnv2 import keras

    model = keras.build("untrained", head=3)
    assert model.output_shape == (None, 3)
    assert len(model.trainable_variables) == 156 + 2
    keras.freeze(model)
    assert [v.path for v in model.trainable_variables] == ["head/kernel", "head/bias"]
    before = norms_of(model)
    model(batch, training=True)  # frozen norms do not move
    assert all((value == before[name]).all() for name, value in norms_of(model).items())
    keras.unfreeze(model, 2)
    assert {v.path.split("/")[0] for v in model.trainable_variables} == {"Conv_1", "Conv_1_bn", "head"}
    keras.unfreeze(model, 8, norms=False)
    trained = {v.path.split("/")[0] for v in model.trainable_variables}
    assert trained == {"block_16_expand", "block_16_depthwise", "block_16_project", "Conv_1", "head"}
    keras.unfreeze(model)
    assert len(model.trainable_variables) == 156 + 2
    with pytest.raises(ValueError, match="expected 0 to 104"):
        keras.unfreeze(model, 105)

    dense = real_keras.layers.Dense
    assert keras.build("untrained", head=dense(4)).output_shape == (None, 4)
    assert keras.build("untrained", head=[dense(9, "relu"), dense(4)]).output_shape == (None, 4)
    assert keras.build("untrained", head=lambda x: dense(5)(x * 2)).output_shape == (None, 5)
    assert keras.build("untrained").output_shape == (None, 1280)
    for wrong, error in (({"head": 0}, ValueError), ({"head": "x"}, TypeError), ({"dropout": 1.0}, ValueError)):
        with pytest.raises(error):
            keras.build("untrained", **wrong)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_saved_models_are_read_by_keras_and_by_us(module, batch, tmp_path, suffix):
    import keras as real_keras

    from fastmnv2 import keras

    model = keras.build(module, head=3)
    model(batch, training=True)
    want = np.asarray(model(batch))
    # Keras' reader of complete HDF5 models does not find registered names with a package.
    custom = {"Network": keras.Network, "BatchNormalization": keras.BatchNormalization}
    path = tmp_path / f"m.{suffix}"
    model.save(path)
    again = real_keras.models.load_model(path, custom if suffix == "h5" else None)
    assert isinstance(again.get_layer("Conv_1_bn"), keras.BatchNormalization)
    assert relative(np.asarray(again(batch)), want) <= 1e-5
    assert relative(fastmnv2.load(path).predict(batch), want) <= 5e-6


def test_without_keras_the_message_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "keras", None)
    monkeypatch.delitem(sys.modules, "fastmnv2.keras", raising=False)
    with pytest.raises(ImportError, match=r"fastmnv2\[train\]"):
        __import__("fastmnv2.keras")


# ---- a small real task


@pytest.fixture(scope="module")
def digits():
    """scikit-learn's 8x8 digits drawn at 96x96: 400 for training, 200 for testing."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.RandomState(0).permutation(len(found.target))[:600]
    small = np.round(found.images[order] * (255 / 16)).astype(np.uint8)
    pictures = small.repeat(12, 1).repeat(12, 2)[..., None].repeat(3, 3)
    return pictures[:400], found.target[order][:400], pictures[400:], found.target[order][400:]


@pytest.mark.slow
def test_fine_tuning_on_digits(digits, request):
    """Train the head, then the last blocks with their norms; the deployed model classifies every picture the same."""
    import keras as real_keras

    from fastmnv2 import keras

    try:
        weights = request.getfixturevalue("real_tflite")
    except pytest.skip.Exception:
        weights = "untrained"
    pictures, labels, others, other_labels = digits
    real_keras.utils.set_random_seed(1)
    model = keras.build(weights, head=10, decay=0.9)  # a short decay, because there are only 30 steps

    keras.calibrate(model, pictures[:64])  # because the real weights are folded

    def accuracy():
        return np.mean(fastmnv2.load(model).predict(others).argmax(1) == other_labels)

    start = accuracy()
    keras.freeze(model)
    model.compile(real_keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    model.fit(pictures, labels, epochs=6, batch_size=40, verbose=0)
    with_head, before = accuracy(), norms_of(model)
    keras.unfreeze(model, 8)
    model.compile(real_keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
    model.fit(pictures, labels, epochs=3, batch_size=40, verbose=0)
    end, after = accuracy(), norms_of(model)
    print(f"{weights}: accuracy {start:.3f}, with a trained head {with_head:.3f}, fine-tuned {end:.3f}")
    assert start < 0.3 < with_head < end
    assert end > 0.6
    moved = {name for name in after if "moving_" in name and (after[name] != before[name]).any()}
    assert {name.split("/")[1] for name in moved} == {"expanded_conv_16", "Conv_1"}
    deployed = fastmnv2.load(model)
    theirs = np.asarray(model(others))
    assert relative(deployed.predict(others), theirs) <= 1e-5
    assert (deployed.predict(others).argmax(1) == theirs.argmax(1)).all()
