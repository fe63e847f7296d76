"""The Keras model that is trained on: the module's training graph, and the way back."""

import numpy as np
import pytest

from fastmnv2.network import BATCH_NORM, LAYERS
from fastmnv2.weights import Source
from fastmnv2.weights.untrained import untrained

NORM_NAMES = [f"{layer.scope}/BatchNorm/{name}" for layer in LAYERS[:-1] for name in BATCH_NORM]


@pytest.fixture(scope="module")
def batch():
    """Sixteen images with the spectrum of photographs."""
    from fastmnv2.weights.untrained import _images

    return _images(np.random.RandomState(41), 16).astype(np.float32)


def source_of(variables):
    return Source("hub", "test", "", variables)


def norms_of(model):
    """The model's batch norm variables by TF-Slim's names."""
    from fastmnv2.keras import names_of

    found = {}
    for layer in LAYERS[:-1]:
        values = model.get_layer(names_of(layer)[1]).get_weights()
        found |= {f"{layer.scope}/BatchNorm/{name}": value for name, value in zip(BATCH_NORM, values, strict=True)}
    return found


def run_train_graph(folder, images):
    """Features of the module's {"train"} graph, the moving statistics after its UPDATE_OPS, and its train variables."""
    import tensorflow as tf

    tf1 = tf.compat.v1
    with tf.Graph().as_default(), tf1.Session() as session:
        meta = tf1.saved_model.load(session, ["train"], str(folder))
        signature = meta.signature_def["default"]
        images_name, features_name = signature.inputs["images"].name, signature.outputs["default"].name
        updates = tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)
        features = session.run(features_name, {images_name: images})
        session.run(updates, {images_name: images})
        moved = {v.name[:-2]: v for v in tf1.global_variables() if "moving_" in v.name}
        return features, session.run(moved), len(updates), len(tf1.trainable_variables())


def test_training_mode_is_the_modules_train_graph(tmp_path, batch):
    from make_module import make_module

    from fastmnv2 import keras

    variables = untrained(seed=3).tensors
    folder = make_module(tmp_path / "module", variables)
    features, moved, updates, trainable = run_train_graph(folder, batch)
    model = keras.build(folder)
    ours = np.asarray(model(batch, training=True))
    print(np.linalg.norm(ours - features) / np.linalg.norm(features), np.abs(ours - features).max())
    norms = norms_of(model)
    assert (updates, trainable) == (104, 156 + 2)
    assert len(model.trainable_variables) == 156
    worst = 0
    for name, value in moved.items():
        step = value - variables[name]
        err = np.abs(norms[name] - value).max() / np.abs(step).max()
        worst = max(worst, err)
    print("worst", worst)
