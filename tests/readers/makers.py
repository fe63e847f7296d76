"""Good files and folders of every form, made with the libraries that users make them with."""

import tarfile

import numpy as np

from fastmnv2.weights.fold import fold
from fastmnv2.weights.forms import native
from fastmnv2.weights.untrained import untrained


def archive(folder, target, prefix="./"):
    with tarfile.open(target, "w:gz") as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, prefix + str(path.relative_to(folder)), recursive=False)
    return target


def legacy_h5(path, network, rename=lambda name: name, suffix=":0", group=""):
    """Keras' legacy layout, written by hand: ``/layer/layer/variable:0`` and the list of layers."""
    import h5py

    with h5py.File(path, "w") as file:
        root = file.require_group(group) if group else file
        root.attrs["layer_names"] = [rename(layer.name).encode() for layer in network.layers]
        for layer in network.layers:
            name = rename(layer.name)
            part = root.create_group(name)
            for weight in layer.weights:
                variable = weight.path.rpartition("/")[2]
                if "Depthwise" in type(layer).__name__:
                    variable = "depthwise_kernel"
                part.create_dataset(f"{name}/{variable}{suffix}", data=np.asarray(weight))
    return path


def converted(network, **options):
    """The network through the TFLite converter."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    function = tf.function(lambda x: network(x, training=False))
    concrete = function.get_concrete_function(tf.TensorSpec([1, *network.input_shape[1:]], tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([convert_variables_to_constants_v2(concrete)])
    for name, value in options.items():
        target, _, attribute = name.rpartition("__")
        setattr(getattr(converter, target) if target else converter, attribute, value)
    return converter.convert()


def make_forms(folder):
    """One good file or folder of every form."""
    from keras_model import keras_model
    from make_module import make_checkpoint, make_module

    variables = untrained().tensors
    module = make_module(folder / "module", variables)
    network = keras_model(variables)
    network.save_weights(folder / "k.weights.h5")
    network.save(folder / "k.keras")
    native.write(folder / "n.safetensors", fold(untrained()))
    (folder / "f.tflite").write_bytes(converted(network))
    (folder / "ckpt").mkdir()
    return {
        "module": module,
        "archive": archive(module, folder / "m.tar.gz"),
        "checkpoint": make_checkpoint(folder / "ckpt" / "model", variables),
        "h5": legacy_h5(folder / "k.h5", network),
        "weights.h5": folder / "k.weights.h5",
        "keras": folder / "k.keras",
        "tflite": folder / "f.tflite",
        "native": folder / "n.safetensors",
    }
