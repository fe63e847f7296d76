"""8-bit TFLite files of this network with random weights and scales, unlike those of any converter.

They are built with LiteRT's own schema.
"""

import numpy as np

from fastmnv2.core.network import DEFAULT

SAME, RELU6 = 0, 3


def packed(maker, inputs, outputs):
    """The bytes of a file with a maker's tensors, operators, buffers and operator codes."""
    import flatbuffers

    s = maker.schema
    graph = s.SubGraphT()
    graph.tensors, graph.operators = maker.tensors, maker.operators
    graph.inputs, graph.outputs, graph.name = inputs, outputs, b"main"
    model = s.ModelT()
    model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], maker.buffers, []
    for code, version in maker.codes:
        operator_code = s.OperatorCodeT()
        operator_code.builtinCode, operator_code.deprecatedBuiltinCode = code, min(code, 127)
        operator_code.version = version
        model.operatorCodes.append(operator_code)
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


class Maker:
    """Builds a graph: tensors, then operators in order."""

    def __init__(
        self, seed, dtype, *, network=DEFAULT, wild=False, float_ends=False, logits=False, tail=False, ties=False
    ):
        from ai_edge_litert import schema_py_generated as schema

        self.schema, self.random = schema, np.random.default_rng(seed)
        self.dtype, self.lowest = np.dtype(dtype), int(np.iinfo(dtype).min)
        self.network, self.per_channel = network, self.dtype == np.int8
        self.wild, self.float_ends, self.logits, self.tail, self.ties = wild, float_ends, logits, tail, ties
        self.tensors, self.buffers, self.operators, self.codes = [], [schema.BufferT()], [], []

    def tensor(self, shape, dtype, scales=None, zeros=None, data=None, axis=0):
        s, t = self.schema, self.schema.TensorT()
        types = {"uint8": s.TensorType.UINT8, "int8": s.TensorType.INT8, "int32": s.TensorType.INT32}
        t.shape, t.type = list(shape), types.get(np.dtype(dtype).name, s.TensorType.FLOAT32)
        t.name, t.buffer = f"t{len(self.tensors)}".encode(), 0
        if scales is not None:
            t.quantization = s.QuantizationParametersT()
            t.quantization.scale = np.atleast_1d(scales).astype(np.float32)
            t.quantization.zeroPoint = np.atleast_1d(zeros).astype(np.int64)
            t.quantization.quantizedDimension = axis
        if data is not None:
            buffer = s.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            t.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.tensors.append(t)
        return len(self.tensors) - 1

    def operator(self, name, inputs, output, options=None, version=1):
        s = self.schema
        code = getattr(s.BuiltinOperator, name)
        if (code, version) not in self.codes:
            self.codes.append((code, version))
        o = s.OperatorT()
        o.opcodeIndex, o.inputs, o.outputs = self.codes.index((code, version)), list(inputs), [output]
        if options is not None:
            o.builtinOptionsType = getattr(s.BuiltinOptions, type(options).__name__[:-1])
            o.builtinOptions = options
        self.operators.append(o)
        return output

    def quantity(self, clamps):
        """A random scale and zero point of an activation. If it `clamps`, the zero point is the lowest value."""
        scale = np.float32((6 if clamps else 12) / 255 * self.random.uniform(0.7, 1.0))
        zero = 0 if clamps else int(self.random.integers(90, 166))
        if clamps and self.wild:  # a ReLU6 that ends inside the type's range, at both ends
            scale, zero = np.float32(6 / 255 * self.random.uniform(1.02, 1.6)), int(self.random.integers(0, 30))
        return scale, zero + self.lowest

    def convolution(self, layer, source, source_scale, *, clamps=None):
        s, random = self.schema, self.random
        clamps = layer.relu6 if clamps is None else clamps
        scale, zero = self.quantity(clamps)
        height, width, inputs, outputs = layer.weights_shape
        stored = (outputs, height, width, inputs)
        depth = height * width * (1 if layer.kind == "depthwise" else inputs)
        spread = random.uniform(20, 34)
        weights = np.rint(random.normal(0, spread, stored)).clip(-127, 127)
        point = 0
        if self.dtype == np.uint8:
            point = int(random.integers(60, 200))
            odd = random.random(stored) < (0.02 if self.wild else 0.0002)  # these weights may exceed int8
            weights = np.where(odd, random.integers(-255, 256, stored), weights).clip(-point, 255 - point)
        count = layer.out_channels if self.per_channel else 1
        # This multiplier makes the outputs fill their range; it determines the weights' scales.
        multiplier = 60 / (np.sqrt(depth) * spread * 60) * random.uniform(0.5, 1.6, count)
        own = (multiplier * scale / source_scale).astype(np.float32)
        bias = random.normal(0.1 if clamps else 0, 1.0, layer.out_channels) * 60 / multiplier
        axis = 3 if layer.kind == "depthwise" and self.per_channel else 0
        kernel = self.tensor(stored, self.dtype, own, np.full(count, point), (weights + point).astype(self.dtype), axis)
        bias = np.rint(bias).astype(np.int32)
        biases = self.tensor(bias.shape, np.int32, own * source_scale, np.zeros(count), bias)
        target = self.tensor((1, layer.out_height, layer.out_width, layer.out_channels), self.dtype, scale, zero)
        depthwise = layer.kind == "depthwise"
        options = s.DepthwiseConv2DOptionsT() if depthwise else s.Conv2DOptionsT()
        options.padding, options.strideW, options.strideH = SAME, layer.stride, layer.stride
        if depthwise:
            options.depthMultiplier = 1
        fused = clamps and (self.wild or self.dtype == np.int8)
        options.fusedActivationFunction = RELU6 if fused else 0
        name = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        version = 3 if self.per_channel else 1
        return self.operator(name, (source, kernel, biases), target, options, version), scale, zero

    def add(self, a, b, shape):
        scale, zero = self.quantity(False)
        scale = np.float32(scale * self.random.uniform(0.8, 1.6))
        target = self.tensor(shape, self.dtype, scale, zero)
        self.operator("ADD", (a, b), target, self.schema.AddOptionsT(), 2 if self.per_channel else 1)
        return target, scale

    def pool(self, source, scale, zero):
        s, last = self.schema, self.network.head
        channels = last.out_channels
        if self.dtype == np.int8:
            pixels = last.out_height * last.out_width
            # With ties, a mean lies next to x.5 if its sum is an odd multiple of `odd`.
            odd = pixels // 2 | 1
            change = 2 * odd / pixels if self.ties else self.random.uniform(0.5, 1.1)
            scale, zero = np.float32(scale * change), zero + 1
            target = self.tensor((1, 1, 1, channels), self.dtype, scale, zero)
            options = s.ReducerOptionsT()
            options.keepDims = True
            axes = self.tensor((2,), np.int32, data=np.array([1, 2], np.int32))
            return self.operator("MEAN", (source, axes), target, options, 2), scale
        target = self.tensor((1, 1, 1, channels), self.dtype, scale, zero)
        options = s.Pool2DOptionsT()
        options.padding, options.filterWidth, options.filterHeight = 1, last.out_width, last.out_height
        options.strideW = options.strideH = 1
        return self.operator("AVERAGE_POOL_2D", (source,), target, options), scale

    def graph(self):
        """Add the network; return the indices of the input and output tensors."""
        scale, zero = (np.float32(1 / 127), 128) if self.dtype == np.uint8 else (np.float32(1 / 127.5), -1)
        shape = (1, *self.network.image_shape)
        image = current = self.tensor(shape, self.dtype, scale, zero)
        if self.float_ends:
            image = self.tensor(shape, np.float32)
            self.operator("QUANTIZE", (image,), current)
        block = current  # the current block's input
        for layer in self.network.layers[:-1]:
            current, scale, zero = self.convolution(layer, current, scale)
            if layer.residual:
                shape = (1, layer.out_height, layer.out_width, layer.out_channels)
                current, scale = self.add(current, block, shape)
            if layer.scope.endswith("project") or layer.kind == "conv":
                block = current
        current, scale = self.pool(current, scale, zero)
        if self.logits:
            current, scale, zero = self.convolution(self.network.logits, current, scale)
            flat = self.tensor((1, self.network.logits.out_channels), self.dtype, scale, zero)
            sizes = self.tensor((2,), np.int32, data=np.array([1, self.network.logits.out_channels], np.int32))
            current = self.operator("RESHAPE", (current, sizes), flat, self.schema.ReshapeOptionsT())
            if self.dtype == np.uint8:
                options = self.schema.SoftmaxOptionsT()
                options.beta = 1.0
                target = self.tensor((1, self.network.logits.out_channels), self.dtype, np.float32(1 / 256), 0)
                current = self.operator("SOFTMAX", (current,), target, options)
        elif self.tail:
            current = self.flattened(current)
        if self.float_ends:
            target = self.tensor(self.tensors[current].shape, np.float32)
            current = self.operator("DEQUANTIZE", (current,), target, version=2 if self.per_channel else 1)
        return image, current

    def flattened(self, source):
        """SHAPE, STRIDED_SLICE, PACK, RESHAPE: the operators that the converter writes for Flatten."""
        s, channels = self.schema, self.network.layers[-2].out_channels
        one = [self.tensor((1,), np.int32, data=np.array([value], np.int32)) for value in (0, 1, 1)]
        sizes = s.ShapeOptionsT()
        sizes.outType = s.TensorType.INT32
        shape = self.operator("SHAPE", (source,), self.tensor((4,), np.int32), sizes)
        options = s.StridedSliceOptionsT()
        options.shrinkAxisMask = 1
        images = self.operator("STRIDED_SLICE", (shape, *one), self.tensor((), np.int32), options)
        pack = s.PackOptionsT()
        pack.valuesCount = 2
        width = self.tensor((), np.int32, data=np.array(channels, np.int32))
        sizes = self.operator("PACK", (images, width), self.tensor((2,), np.int32), pack)
        own = self.tensors[source].quantization
        target = self.tensor((1, channels), self.dtype, own.scale, own.zeroPoint)
        return self.operator("RESHAPE", (source, sizes), target, s.ReshapeOptionsT())

    def data(self):
        """The file's bytes."""
        image, result = self.graph()
        return packed(self, [image], [result])


def write(path, seed, dtype, **options):
    """Write a file; return its path."""
    path.write_bytes(Maker(seed, dtype, **options).data())
    return path
