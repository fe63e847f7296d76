"""Write the network with given weights in other engines' formats. Inputs are images in [-1,1]."""

import struct
from pathlib import Path

import numpy as np

from fastmnv2.core.network import Network
from fastmnv2.weights.tensors import Folded


def _steps(folded: Folded):
    """Yield every layer except the logits: layer, kernel, bias, and whether a block starts with this layer."""
    for index, layer in enumerate(folded.network.layers[:-1]):
        yield layer, folded.tensors[layer.weights_name], folded.tensors[layer.biases_name], index % 3 == 0


def _tf_function(folded: Folded):
    import tensorflow as tf

    def network(images):
        x = images
        for layer, kernel, bias, starts in _steps(folded):
            shortcut = x if starts else shortcut  # noqa: F821 - set by the first layer, which starts a block
            if layer.kind == "depthwise":
                y = tf.nn.depthwise_conv2d(x, kernel, [1, layer.stride, layer.stride, 1], "SAME")
            else:
                y = tf.nn.conv2d(x, kernel, layer.stride, "SAME")
            y = tf.nn.bias_add(y, bias)
            y = tf.nn.relu6(y) if layer.relu6 else y
            x = shortcut + y if layer.residual else y
        return tf.reduce_mean(x, [1, 2])

    return network


def saved_model(folded: Folded, folder: Path) -> Path:
    """A TF2 SavedModel with one signature, for any batch."""
    import tensorflow as tf

    module = tf.Module()
    signature = [tf.TensorSpec([None, *folded.network.image_shape], tf.float32, name="images")]
    module.embed = tf.function(_tf_function(folded), input_signature=signature)
    tf.saved_model.save(module, str(folder), signatures=module.embed)
    return folder


def tflite(folded: Folded, path: Path) -> Path:
    """A float32 TFLite file for one image; interpreters can resize its batch."""
    import tensorflow as tf

    signature = [tf.TensorSpec([1, *folded.network.image_shape], tf.float32, name="images")]
    function = tf.function(_tf_function(folded), input_signature=signature).get_concrete_function()
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([function]).convert())
    return path


def patches(random: np.random.RandomState, count: int, network: Network) -> np.ndarray:
    """Images in [0,1]: noise over coarse patches of 8x8 pixels."""
    height, width = network.size
    coarse = random.rand(count, -(-height // 8), -(-width // 8), 3).repeat(8, 1).repeat(8, 2)[:, :height, :width]
    return coarse * 0.7 + 0.3 * random.rand(*coarse.shape)


def _calibration(network: Network) -> np.ndarray:
    """Images in [-1,1] to calibrate on."""
    images = patches(np.random.RandomState(4), 24, network)
    images.flat[:2] = 0, 1  # exactly black and white, so that the quantisation step is 1/255
    return (images * 2 - 1).astype(np.float32)


def int8_tflite(folded: Folded, path: Path) -> Path:
    """An int8 TFLite file with float input and output, by the current converter; interpreters can resize its batch."""
    import tensorflow as tf

    signature = [tf.TensorSpec([1, *folded.network.image_shape], tf.float32, name="images")]
    function = tf.function(_tf_function(folded), input_signature=signature).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: ([image[np.newaxis]] for image in _calibration(folded.network))
    path.write_bytes(converter.convert())
    return path


def int8_onnx(folded: Folded, source: Path, path: Path) -> Path:
    """Quantise an ONNX file with ONNX Runtime's own tool."""
    from onnxruntime import quantization

    class Images(quantization.CalibrationDataReader):
        left = iter(_calibration(folded.network))

        def get_next(self):
            image = next(self.left, None)
            return None if image is None else {"images": np.ascontiguousarray(image[np.newaxis].transpose(0, 3, 1, 2))}

    quantization.quantize_static(source, path, Images(), per_channel=True)
    return path


def _oihw(layer, kernel):
    if layer.kind == "depthwise":
        kernel = kernel.transpose(0, 1, 3, 2)
    return np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))


def onnx(folded: Folded, path: Path) -> Path:
    """An ONNX file, NCHW, for any batch."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    nodes = []
    tensors = [numpy_helper.from_array(np.float32(0), "zero"), numpy_helper.from_array(np.float32(6), "six")]
    x = shortcut = "images"
    for layer, kernel, bias, starts in _steps(folded):
        shortcut = x if starts else shortcut
        name = layer.scope
        tensors += [numpy_helper.from_array(_oihw(layer, kernel), f"{name}/kernel")]
        tensors += [numpy_helper.from_array(bias, f"{name}/bias")]
        nodes.append(
            helper.make_node(
                "Conv",
                [x, f"{name}/kernel", f"{name}/bias"],
                [name],
                kernel_shape=[layer.kernel] * 2,
                strides=[layer.stride] * 2,
                pads=[edge for sides in zip(*layer.padding, strict=True) for edge in sides],
                group=layer.in_channels if layer.kind == "depthwise" else 1,
            )
        )
        x = name
        if layer.relu6:
            nodes.append(helper.make_node("Clip", [x, "zero", "six"], [f"{name}/relu6"]))
            x = f"{name}/relu6"
        if layer.residual:
            nodes.append(helper.make_node("Add", [shortcut, x], [f"{name}/sum"]))
            x = f"{name}/sum"
    nodes += [helper.make_node("GlobalAveragePool", [x], ["pool"]), helper.make_node("Flatten", ["pool"], ["features"])]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, *folded.network.size])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", folded.network.features])
    graph = helper.make_graph(nodes, "fastmnv2", [images], [features], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    save(model, path)
    return path


def ncnn(folded: Folded, path: Path) -> Path:
    """ncnn's .param text at ``path`` and its .bin next to it (github.com/Tencent/ncnn/wiki, "param and model")."""
    lines, blobs, weights = ["Input images 0 1 x0"], 1, bytearray()

    def add(kind, inputs, outputs, parameters=""):
        lines.append(f"{kind} l{len(lines)} {len(inputs)} {len(outputs)} {' '.join(inputs + outputs)} {parameters}")

    def blob():
        nonlocal blobs
        blobs += 1
        return f"x{blobs - 1}"

    x, shortcut = "x0", ""
    residual_blocks = {layer.scope.rpartition("/")[0] for layer in folded.network.layers if layer.residual}
    for layer, kernel, bias, starts in _steps(folded):
        if starts and layer.scope.rpartition("/")[0] in residual_blocks:
            branch, shortcut = blob(), blob()
            add("Split", [x], [branch, shortcut])
            x = branch
        (above, below), (left, right) = layer.padding
        parameters = (
            f"0={layer.out_channels} 1={layer.kernel} 3={layer.stride} 4={left} 14={above} 15={right} 16={below} "
            f"5=1 6={kernel.size}"
        )
        if layer.relu6:
            parameters += " 9=3 -23310=2,0.0,6.0"
        depthwise = layer.kind == "depthwise"
        y = blob()
        add(
            "ConvolutionDepthWise" if depthwise else "Convolution",
            [x],
            [y],
            parameters + f" 7={layer.in_channels}" * depthwise,
        )
        weights += struct.pack("<I", 0) + _oihw(layer, kernel).tobytes() + bias.tobytes()
        x = y
        if layer.residual:
            x = blob()
            add("BinaryOp", [y, shortcut], [x], "0=0")
    add("Pooling", [x], ["features"], "0=1 4=1")
    path.write_text("\n".join(["7767517", f"{len(lines)} {blobs + 1}", *lines]) + "\n")
    path.with_suffix(".bin").write_bytes(weights)
    return path


def mnn(onnx_path: Path, path: Path) -> Path:
    """Convert an ONNX file with MNN's own converter."""
    import MNN  # noqa: F401 - makes its converter importable
    from _tools import mnnconvert

    mnnconvert(["", "-f", "ONNX", "--modelFile", str(onnx_path), "--MNNModel", str(path), "--bizCode", "bench"])
    return path
