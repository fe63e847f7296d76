"""Make TF1 hub module folders and TF-Slim checkpoints with tensorflow-cpu only.

The graph, its variable names and its signatures are those of Google's module: a plain TF1 graph with
resource variables, metagraphs {} and {"train"}, batch norm moving averages in UPDATE_OPS, tfhub_module.pb.
"""

import functools
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from reference import BLOCKS
from tensorflow import compat

tf1 = compat.v1

LOGITS = "MobilenetV2/Logits/Conv2d_1c_1x1"


def _layer(x, scope, channels, kernel=1, stride=1, relu6=True, depthwise=False, train=False):
    inputs = int(x.shape[-1])
    with tf1.variable_scope(scope):
        if depthwise:
            weights, channels = tf1.get_variable("depthwise_weights", [kernel, kernel, inputs, 1]), inputs
            x = tf.nn.depthwise_conv2d(x, weights, [1, stride, stride, 1], "SAME")
        else:
            weights = tf1.get_variable("weights", [kernel, kernel, inputs, channels])
            x = tf.nn.conv2d(x, weights, stride, "SAME")
        with tf1.variable_scope("BatchNorm"):
            gamma, beta = tf1.get_variable("gamma", [channels]), tf1.get_variable("beta", [channels])
            mean = tf1.get_variable("moving_mean", [channels], trainable=False)
            variance = tf1.get_variable("moving_variance", [channels], trainable=False)
            if train:
                x, batch_mean, batch_variance = tf1.nn.fused_batch_norm(x, gamma, beta, epsilon=1e-3, is_training=True)
                for moving, batch in ((mean, batch_mean), (variance, batch_variance)):
                    update = tf1.assign_sub(moving, (moving - batch) * 0.003)
                    tf1.add_to_collection(tf1.GraphKeys.UPDATE_OPS, update)
            else:
                x, _, _ = tf1.nn.fused_batch_norm(x, gamma, beta, mean, variance, epsilon=1e-3, is_training=False)
        return tf.nn.relu6(x) if relu6 else x


def build(train=False, logits=False):
    """Build the network in the current default graph; return its signatures."""
    with tf1.name_scope("hub_input"):
        images = tf1.placeholder(tf.float32, [None, 96, 96, 3], name="images")
        x = tf.subtract(tf.multiply(images, 2.0, name="Mul"), 1.0, name="Sub")
    ends = {}
    with tf1.variable_scope("MobilenetV2", use_resource=True):
        x = ends["layer_1"] = _layer(x, "Conv", 24, 3, 2, train=train)
        for number, (stride, channels) in enumerate(BLOCKS):
            name, y = f"layer_{number + 2}", x
            with tf1.variable_scope(f"expanded_conv_{number}" if number else "expanded_conv"):
                if number:
                    y = ends[f"{name}/expansion_output"] = _layer(y, "expand", int(x.shape[-1]) * 6, train=train)
                y = ends[f"{name}/depthwise_output"] = _layer(y, "depthwise", 0, 3, stride, depthwise=True, train=train)
                y = _layer(y, "project", channels, relu6=False, train=train)
                x = tf.identity(x + y if stride == 1 and int(x.shape[-1]) == channels else y, "output")
            ends[name] = ends[f"{name}/output"] = x
        x = ends["layer_19"] = _layer(x, "Conv_1", 1280, train=train)
        pooled = ends["global_pool"] = tf.nn.avg_pool2d(x, [1, 3, 3, 1], 1, "VALID")
        if logits:
            with tf1.variable_scope("Logits/Conv2d_1c_1x1"):
                weights, biases = tf1.get_variable("weights", [1, 1, 1280, 1001]), tf1.get_variable("biases", [1001])
            scores = tf.squeeze(tf.nn.conv2d(pooled, weights, 1, "SAME") + biases, [1, 2])
    features = tf.squeeze(pooled, [1, 2])
    outputs = {f"MobilenetV2/{name}": tensor for name, tensor in ends.items()} | {"default": features}
    if logits:
        outputs["logits"] = scores
    return {"default": _signature(images, {"default": features}), "image_feature_vector": _signature(images, outputs)}


def _signature(images, outputs):
    info = tf1.saved_model.build_tensor_info
    return tf1.saved_model.signature_def_utils.build_signature_def(
        {"images": info(images)}, {name: info(tensor) for name, tensor in outputs.items()}, "hub"
    )


@functools.cache
def _saved_graphs(logits):
    """saved_model.pb, which takes seconds to make and is the same for any values."""
    with tempfile.TemporaryDirectory() as folder:
        builder = tf1.saved_model.Builder(f"{folder}/module")
        with tf.Graph().as_default(), tf1.Session() as session:
            signatures = build(logits=logits)
            every = tf1.global_variables()
            # All in one run, because one at a time takes half a minute.
            session.run([v.initializer for v in every], {v.initializer.inputs[1]: np.zeros(v.shape) for v in every})
            builder.add_meta_graph_and_variables(session, [], signature_def_map=signatures)
        with tf.Graph().as_default():
            builder.add_meta_graph(["train"], signature_def_map=build(train=True, logits=logits))
        return Path(builder.save().decode()).read_bytes()


def _save(prefix, tensors):
    """Write a checkpoint with the operation that tf.train.Saver runs."""
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(value) for value in tensors.values()],
    )


def make_module(folder, variables):
    """Write a hub module folder with ``variables`` (TF-Slim names), which may include the logits'."""
    folder = Path(folder)
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(_saved_graphs(f"{LOGITS}/weights" in variables))
    (folder / "tfhub_module.pb").write_bytes(b"\x08\x03")
    _save(folder / "variables" / "variables", variables)
    return folder


def make_checkpoint(prefix, variables, averages=None):
    """Write a training checkpoint: variables, averages of trainable variables, optimiser slots, global_step.

    Names are those of TF-Slim's training.
    """
    tensors = dict(variables) | {"global_step": np.int64(7)}
    for name in variables:
        if "moving_" not in name:
            tensors |= {f"{name}/{slot}": np.ones_like(variables[name]) for slot in ("RMSProp", "RMSProp_1")}
    for name, value in (averages or {}).items():
        tensors[f"{name}/ExponentialMovingAverage"] = value
    _save(prefix, tensors)
    tf1.train.update_checkpoint_state(str(Path(prefix).parent), str(prefix))
    return Path(prefix)


def run_module(folder, images, signature="image_feature_vector"):
    """All outputs of a module folder by name, from TensorFlow."""
    module = tf.saved_model.load(str(folder), tags=[])
    outputs = module.signatures[signature](images=tf.constant(images))
    return {name: tensor.numpy() for name, tensor in outputs.items()}
