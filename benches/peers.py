"""fastmnv2 and the engines that it is compared with, each as a function ``run(images) -> features``.

Every engine gets float32 NHWC images in the range that its model takes. Any further conversion that it needs is timed
too, because its users have to do it.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import export
import numpy as np

import fastmnv2
from fastmnv2.core.network import Network
from fastmnv2.weights.resolve import resolve

Run = Callable[[np.ndarray], np.ndarray]


class Peer(NamedTuple):
    """An engine, and how to run it."""

    distribution: str  # the package to install
    make: Callable[
        [Path, int, int], Run
    ]  # takes the models' folder, the number of threads (0: default), the batch size
    input_range: tuple[float, float] = (-1.0, 1.0)
    needs: tuple[str, ...] = ()  # formats of model files
    network: str = "float32"  # names the weights; engines with the same weights are compared
    tolerance: float = 1e-4  # maximum relative L2 difference between its features and ours


def google(network: Network) -> Path:
    """The path of Google's own uint8 file of a network, in the tests' data folder."""
    found = os.environ.get("FASTMNV2_TEST_DATA") or Path(__file__).parents[2] / "shared"
    return (
        Path(found)
        / "weights"
        / f"mobilenet_v2_{network.multiplier}_{network.height}_quant.tflite".replace(".", "_", 1)
    )


def make_models(folder: Path, weights: str, formats: set[str]) -> None:
    """Write the same weights in every format of ``formats``. Run this in a separate process, as it loads TensorFlow."""
    folded = resolve(weights)
    if "int8" in formats:
        export.int8_tflite(folded, folder / "int8.tflite")
    if "int8_onnx" in formats:
        export.int8_onnx(folded, export.onnx(folded, folder / "for_int8.onnx"), folder / "int8.onnx")
    if "google" in formats:
        if not (found := google(folded.network)).is_file():
            raise SystemExit(f"no {found}")
        (folder / "google.tflite").write_bytes(found.read_bytes())
    if "native" in formats:
        from fastmnv2.weights.forms import native

        native.write(folder / "native.safetensors", folded)
    if "saved_model" in formats:
        export.saved_model(folded, folder / "saved_model")
    if "tflite" in formats:
        export.tflite(folded, folder / "network.tflite")
    if "onnx" in formats or "mnn" in formats:
        export.onnx(folded, folder / "network.onnx")
    if "mnn" in formats:
        export.mnn(folder / "network.onnx", folder / "network.mnn")
    if "ncnn" in formats:
        export.ncnn(folded, folder / "network.param")


def _fastmnv2(folder: Path, threads: int, batch: int) -> Run:
    model = fastmnv2.load(folder / "native.safetensors", threads=threads or None)
    return model.embed


def _int8(name: str) -> Callable[[Path, int, int], Run]:
    def make(folder: Path, threads: int, batch: int) -> Run:
        return fastmnv2.load(folder / name, threads=threads or None, precision="int8").embed

    return make


def _litert_google(folder: Path, threads: int, batch: int) -> Run:
    """Run LiteRT up to the pooling, which gives the features; one image at a time, because the file allows no more."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / "google.tflite"), num_threads=threads or None)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    ops = interpreter._get_ops_details()
    pool = next(op["outputs"][0] for op in ops if op["op_name"] == "AVERAGE_POOL_2D")
    scale = np.float32(next(t for t in interpreter.get_tensor_details() if t["index"] == pool)["quantization"][0])

    def run(images: np.ndarray) -> np.ndarray:
        features = []
        for pixels in np.rint(images * 255).astype(np.uint8):
            interpreter.set_tensor(source, pixels[np.newaxis])
            interpreter.invoke()
            features.append(interpreter.get_tensor(pool).reshape(-1) * scale)
        return np.stack(features)

    return run


def _litert(folder: Path, threads: int, batch: int, name: str = "network.tflite") -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / name), num_threads=threads or None)
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]
    image = interpreter.get_input_details()[0]["shape"][1:]
    interpreter.resize_tensor_input(source, [batch, *map(int, image)])
    interpreter.allocate_tensors()

    def run(images: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source, images)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return run


def _tensorflow(folder: Path, threads: int, batch: int) -> Run:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    module: Any = tf.saved_model.load(str(folder / "saved_model"))
    embed = module.signatures["serving_default"]
    return lambda images, module=module: next(iter(embed(images=tf.constant(images)).values())).numpy()


def _onnxruntime(folder: Path, threads: int, batch: int, name: str = "network.onnx") -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(folder / name, options, ["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2))})[0]


def _of_batch(network: Any, batch: int) -> Any:
    """The input's shape for a batch."""
    shape = network.input().partial_shape
    shape[0] = batch
    return shape


def _openvino(folder: Path, threads: int, batch: int) -> Run:
    import openvino
    from openvino.preprocess import PrePostProcessor

    core = openvino.Core()
    steps = PrePostProcessor(core.read_model(folder / "network.onnx"))
    steps.input().tensor().set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    network = steps.build()
    network.reshape(_of_batch(network, batch))
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    return lambda images: request.infer({0: images}, share_inputs=True)[0]


def _openvino_int8(folder: Path, threads: int, batch: int) -> Run:
    import openvino

    core = openvino.Core()
    network = core.read_model(folder / "int8.tflite")
    network.reshape(_of_batch(network, batch))
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    return lambda images: request.infer({0: images}, share_inputs=True)[0]


def _ncnn(folder: Path, threads: int, batch: int) -> Run:
    import ncnn

    network = ncnn.Net()
    network.opt.num_threads = threads
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage", "bf16_packed"):
        setattr(network.opt, f"use_{option}", False)
    network.load_param(str(folder / "network.param"))
    network.load_model(str(folder / "network.bin"))

    def one(image: np.ndarray) -> np.ndarray:
        extractor, planes = network.create_extractor(), np.ascontiguousarray(image.transpose(2, 0, 1))
        extractor.input("x0", ncnn.Mat(planes))  # a view: planes must outlive it
        return np.array(extractor.extract("features")[1]).reshape(-1)

    return lambda images: np.stack([one(image) for image in images])  # ncnn has no batches


def _mnn(folder: Path, threads: int, batch: int) -> Run:
    import MNN

    network = MNN.Interpreter(str(folder / "network.mnn"))
    session = network.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
    source = network.getSessionInput(session)
    shape = (batch, *source.getShape()[1:])
    network.resizeTensor(source, shape)
    network.resizeSession(session)
    target, layout = network.getSessionOutput(session), MNN.Tensor_DimensionType_Caffe
    out = np.zeros(target.getShape(), np.float32)
    features = MNN.Tensor(out.shape, MNN.Halide_Type_Float, out, layout)

    def run(images: np.ndarray) -> np.ndarray:
        planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        source.copyFrom(MNN.Tensor(shape, MNN.Halide_Type_Float, planes, layout))
        network.runSession(session)
        target.copyToHostTensor(features)
        return features.getNumpyData().copy()

    return run


# The input range of an int8 file with scale 1/127.5 and zero point -1, where a byte k is (k - 127) / 127.5. [-1,1] is
# half a step off: with it, half of the pixels would be rounded to a neighbouring value.
_BYTES = (-127 / 127.5, 128 / 127.5)

PEERS = {
    "fastmnv2": Peer("fastmnv2", _fastmnv2, (0.0, 1.0), ("native",)),
    "litert": Peer("ai-edge-litert", _litert, needs=("tflite",)),
    "openvino": Peer("openvino", _openvino, needs=("onnx",)),
    "onnxruntime": Peer("onnxruntime", _onnxruntime, needs=("onnx",)),
    "ncnn": Peer("ncnn", _ncnn, needs=("ncnn",)),
    "mnn": Peer("mnn", _mnn, needs=("mnn",)),
    "fastmnv2-int8": Peer("fastmnv2", _int8("int8.tflite"), (0.0, 1.0), ("int8",), "int8"),
    "litert-int8": Peer(
        "ai-edge-litert",
        functools.partial(_litert, name="int8.tflite"),
        _BYTES,
        ("int8",),
        network="int8",
        tolerance=0.02,
    ),
    "openvino-int8": Peer("openvino", _openvino_int8, _BYTES, ("int8",), network="int8", tolerance=0.5),
    "onnxruntime-int8": Peer(
        "onnxruntime",
        functools.partial(_onnxruntime, name="int8.onnx"),
        needs=("int8_onnx",),
        network="int8",
        tolerance=1.0,  # quantised by its own tool, so its features differ
    ),
    "fastmnv2-google-int8": Peer("fastmnv2", _int8("google.tflite"), (0.0, 1.0), ("google",), "google"),
    "litert-google-int8": Peer("ai-edge-litert", _litert_google, (0.0, 1.0), ("google",), "google"),
    "tensorflow": Peer("tensorflow-cpu", _tensorflow, needs=("saved_model",)),
}
