"""Float TFLite files with given weights, and with a test's operators before and after the network."""

import io
import zipfile

import numpy as np
from int8_files import RELU6, SAME, Maker, packed


class FloatMaker(Maker):
    """Builds the network from folded weights.

    ``before`` is a list of (operator, numbers) for the image, or (operator, numbers, True) with the numbers first.
    ``after`` is a function that takes this maker and the pooled features' tensor and returns the outputs' tensors.
    ``pool`` is the operator for the last map, ``window`` the window of AVERAGE_POOL_2D. ``unclamped`` is the
    scope of a layer without its ReLU6. ``size`` is the size of images, which the graph then resizes.
    """

    def __init__(
        self, folded, before=(), after=None, pool="MEAN", activations=np.float32, window=None, unclamped="", size=None
    ):
        super().__init__(0, np.uint8)
        self.unclamped, self.size = unclamped, size
        self.folded, self.before, self.after, self.last, self.activations = folded, before, after, pool, activations
        self.window = window  # of AVERAGE_POOL_2D

    def values(self, data):
        data = np.ascontiguousarray(data)
        return self.tensor(data.shape, data.dtype, data=data)

    def named(self, shape, name):
        index = self.tensor(shape, self.activations)
        self.tensors[index].name = name.encode()
        return index

    def layer(self, layer, source):
        s = self.schema
        depthwise = layer.kind == "depthwise"
        kernel = self.values(self.folded.tensors[layer.weights_name].transpose(3, 0, 1, 2))
        if depthwise:
            kernel = self.values(self.folded.tensors[layer.weights_name].transpose(3, 0, 1, 2))
        options = s.DepthwiseConv2DOptionsT() if depthwise else s.Conv2DOptionsT()
        options.padding, options.strideW, options.strideH = SAME, layer.stride, layer.stride
        options.fusedActivationFunction = RELU6 if layer.relu6 and layer.scope != self.unclamped else 0
        if depthwise:
            options.depthMultiplier = 1
        target = self.tensor((1, layer.out_height, layer.out_width, layer.out_channels), self.activations)
        name = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        return self.operator(
            name, (source, kernel, self.values(self.folded.tensors[layer.biases_name])), target, options
        )

    def dense(self, source, kernel, bias, name, activation=0):
        options = self.schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = activation
        inputs = [source, self.values(kernel.T), -1 if bias is None else self.values(bias)]
        return self.operator("FULLY_CONNECTED", inputs, self.named((1, kernel.shape[1]), name), options)

    def plain(self, operator, inputs, width, name, options=None):
        return self.operator(operator, inputs, self.named((1, width), name), options)

    def softmax(self, source, width, name="probabilities"):
        options = self.schema.SoftmaxOptionsT()
        options.beta = 1.0
        return self.plain("SOFTMAX", (source,), width, name, options)

    def graph(self):
        s, network = self.schema, self.folded.network
        image = current = self.tensor((1, *(self.size or network.size), 3), self.activations)
        if self.size:
            target = self.tensor((1, *network.image_shape), self.activations)
            given = (current, self.values(np.array(network.size, np.int32)))
            current = self.operator("RESIZE_BILINEAR", given, target, s.ResizeBilinearOptionsT())
        kinds = {"MUL": s.MulOptionsT, "ADD": s.AddOptionsT, "SUB": s.SubOptionsT, "DIV": s.DivOptionsT}
        for operator, number, *first in self.before:
            target = self.tensor((1, *network.image_shape), self.activations)
            inputs = (current, self.values(np.float32(number)))
            inputs = inputs[::-1] if first else inputs
            current = self.operator(operator, inputs, target, kinds[operator]())
        block = current
        for layer in network.layers[:-1]:
            current = self.layer(layer, current)
            if layer.residual:
                shape = (1, layer.out_height, layer.out_width, layer.out_channels)
                target = self.tensor(shape, self.activations)
                current = self.operator("ADD", (current, block), target, s.AddOptionsT())
            if layer.scope.endswith("project"):
                block = current
        pooled = self.named((1, network.features), "pooled")
        current = self.operator(self.last, *self.pooling(current, pooled))
        return image, self.after(self, current) if self.after else [current]

    def pooling(self, source, target):
        """Inputs, output and options of the operator ``pool``."""
        s, axes = self.schema, self.values(np.array([1, 2], np.int32))
        if self.last == "RESHAPE":
            return (source,), target, s.ReshapeOptionsT()
        if self.last != "AVERAGE_POOL_2D":
            return (source, axes), target, s.ReducerOptionsT()
        options = s.Pool2DOptionsT()
        options.filterHeight, options.filterWidth = self.window
        options.strideW = options.strideH = 1
        return (source,), target, options

    def data(self, labels=None):
        """The file's bytes, with ``labels`` appended as metadata writers do."""
        image, outputs = self.graph()
        file = io.BytesIO(packed(self, [image], outputs))
        if labels is not None:
            with zipfile.ZipFile(file, "a") as archive:
                archive.writestr("labels.txt", "".join(f"{name}\n" for name in labels))
        return file.getvalue()
