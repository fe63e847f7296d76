"""Good files and folders of every form, made with the libraries that users have."""

import functools
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


def write_bundle(prefix, arrays, names=None, dtype=1):
    """Write a tensor bundle without TensorFlow. With ``names`` (variables' names by key) it is a TensorFlow 2 bundle.

    ``dtype`` is a number of types.proto: 1 for float32, 2 for float64, 14 for bfloat16 and 19 for float16.
    """
    from bombs import HEADER, entry, field, masked_crc, record, varint, write_index

    data, records = b"", []
    for key, values in sorted(arrays.items()):
        kind = {1: "<f4", 2: "<f8", 14: "<f4", 19: "<f2"}[dtype]
        exact = np.ascontiguousarray(values, kind)
        stored = (exact.view("<u2")[..., 1::2] if dtype == 14 else exact).tobytes()
        crc = masked_crc(stored).to_bytes(4, "little")
        records.append(record(key.encode(), entry(values.shape, len(data), len(stored), crc, dtype=dtype)))
        data += stored
    if names is not None:
        parts = (field(2, field(2, name.encode()) + field(3, key.encode())) for key, name in names.items())
        graph = b"".join(field(1, part) for part in parts)
        text = varint(len(graph)) + bytes(4) + graph
        graph_entry = entry([], len(data), len(text), bytes(4), dtype=7)
        records.insert(0, record(b"_CHECKPOINTABLE_OBJECT_GRAPH", graph_entry))
        data += text
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(data)
    write_index(prefix.with_name(f"{prefix.name}.index"), [[HEADER, *records]])
    return prefix


def legacy_h5(path, network, rename=lambda name: name, suffix=":0", group=""):
    """Write Keras' legacy layout without Keras: ``/layer/layer/variable:0`` and the list of layers."""
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
    """The bytes that the TFLite converter makes from the network."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    function = tf.function(lambda x: network(x, training=False))
    concrete = function.get_concrete_function(tf.TensorSpec([1, *network.input_shape[1:]], tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([convert_variables_to_constants_v2(concrete)])
    for name, value in options.items():
        target, _, attribute = name.rpartition("__")
        setattr(getattr(converter, target) if target else converter, attribute, value)
    return converter.convert()


@functools.cache
def untrained_tflite():
    """The untrained network as a TFLite file."""
    from keras_model import keras_model

    return converted(keras_model(untrained().tensors))


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
    (folder / "f.tflite").write_bytes(untrained_tflite())
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
