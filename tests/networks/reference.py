"""The network in a few lines of numpy, in float64 by default: the reference for measuring errors.

It is written from the paper's and TF-Slim's description, not from csrc/. Each field of ``Mutant`` is one error.
"""

from dataclasses import dataclass

import numpy as np

# (stride, output channels) of the 17 blocks at depth multiplier 0.75
BLOCKS = [(1, 16), (2, 24), (1, 24), (2, 24), (1, 24), (1, 24), (2, 48), (1, 48), (1, 48)]
BLOCKS += [(1, 48), (1, 72), (1, 72), (1, 72), (2, 120), (1, 120), (1, 120), (1, 240)]


@dataclass(frozen=True)
class Mutant:
    symmetric_padding: bool = False  # stride 2 pads before as well as after, as PyTorch does
    epsilon: float = 0.001
    relu: bool = False  # without the 6
    relu6_on_projections: bool = False
    pad_before_scaling: bool = False  # zeros in [0,1] space


def forward(variables, images, dtype=np.float64, mutant=Mutant()):
    """The module's outputs by name, for images [n,height,width,3] in [0,1].

    ``variables`` are TF-Slim's, with batch norms, for any multiplier.
    """
    v = {name: np.asarray(value, dtype) for name, value in variables.items()}
    outputs = {}

    def sides(size, stride):
        total = max((-(-size // stride) - 1) * stride + 3 - size, 0)
        before = 1 if mutant.symmetric_padding else total // 2
        return before, total - before

    def patches(x, stride, value=0.0):
        height, width = (-(-size // stride) for size in x.shape[1:3])
        x = np.pad(x, ((0, 0), *(sides(size, stride) for size in x.shape[1:3]), (0, 0)), constant_values=value)
        for i in range(3):
            for j in range(3):
                yield i, j, x[:, i : i + height * stride : stride, j : j + width * stride : stride][:, :height, :width]

    def layer(x, scope, stride=1, relu=True, padding=0.0):
        if f"{scope}/depthwise_weights" in v:
            w = v[f"{scope}/depthwise_weights"]
            y = sum(p * w[i, j, :, 0] for i, j, p in patches(x, stride))
        else:
            w = v[f"{scope}/weights"]
            y = x @ w[0, 0] if w.shape[0] == 1 else sum(p @ w[i, j] for i, j, p in patches(x, stride, padding))
        gamma, beta, mean, variance = (
            v[f"{scope}/BatchNorm/{name}"] for name in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        y = (y - mean) / np.sqrt(variance + dtype(mutant.epsilon)) * gamma + beta
        if relu or mutant.relu6_on_projections:
            y = np.maximum(y, 0) if mutant.relu else np.clip(y, 0, 6)
        return y

    # Zeros in [0,1] space are -1 after the module's own 2x - 1.
    border = -1.0 if mutant.pad_before_scaling else 0.0
    x = layer(np.asarray(images, dtype) * 2 - 1, "MobilenetV2/Conv", 2, padding=border)
    outputs["layer_1"] = x
    for number, (stride, _) in enumerate(BLOCKS):
        scope = f"MobilenetV2/expanded_conv{f'_{number}' if number else ''}"
        name, y = f"layer_{number + 2}", x
        if number:
            y = outputs[f"{name}/expansion_output"] = layer(y, f"{scope}/expand")
        y = outputs[f"{name}/depthwise_output"] = layer(y, f"{scope}/depthwise", stride)
        y = layer(y, f"{scope}/project", relu=False)
        x = x + y if stride == 1 and x.shape == y.shape else y
        outputs[name] = outputs[f"{name}/output"] = x
    x = outputs["layer_19"] = layer(x, "MobilenetV2/Conv_1")
    pooled = outputs["global_pool"] = x.mean((1, 2), keepdims=True)
    outputs = {f"MobilenetV2/{name}": value for name, value in outputs.items()}
    outputs["default"] = pooled[:, 0, 0]
    logits = "MobilenetV2/Logits/Conv2d_1c_1x1"
    if f"{logits}/weights" in v:
        outputs["logits"] = outputs["default"] @ v[f"{logits}/weights"][0, 0] + v[f"{logits}/biases"]
    return outputs
