"""Heads, the layers after the pooling: dense layers, folded batch norms and activations, and the names of the classes.

Dense layers run on the engine's pointwise kernels, where each output is one chain of fused multiply-adds in the order
of the inputs; the rest is elementwise in numpy. So a row gives the same bits alone or in any batch. numpy's own
matrix product does not guarantee that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core import _engine
from fastmnv2.core.errors import WeightsError
from fastmnv2.core.network import DEFAULT

_Array = NDArray[np.float32]

PREFIX = "head/"
"""The prefix of a head's tensor names in a file."""

LIMIT = 4 << 20
"""The maximum number of values in a head, which take 16 MB. Three layers of a thousand units have 3.3 million."""


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sigmoid of each value."""
    with np.errstate(over="ignore"):
        result: NDArray[np.float64] = 1 / (1 + np.exp(-x))
    return result


def softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax along the last axis."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return result


def unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide each vector along the last axis by its length, as Keras' UnitNormalization does."""
    squares = (x * x).sum(axis=-1, keepdims=True)
    result: NDArray[np.float64] = x / np.sqrt(np.maximum(squares, 1e-12))
    return result


ACTIVATIONS: dict[str, Any] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": sigmoid,
    "softmax": softmax,
    "unit": unit,
}
"""Activations by Keras' names, and "unit" for UnitNormalization. They compute in float64; ``Runner`` rounds once."""


@dataclass(frozen=True, eq=False, repr=False)
class Step:
    """One step of a head.

    Attributes:
        kind: "dense" (tensors ``kernel`` [inputs,outputs] and ``bias``), "affine" (``scale`` and ``shift``), or
            one of ``ACTIVATIONS``, without tensors.
        name: the name of the layer that it came from.
        tensors: float32.
    """

    kind: str
    name: str
    tensors: dict[str, _Array] = field(default_factory=dict)


TENSORS = {"dense": ("kernel", "bias"), "affine": ("scale", "shift")}
"""Names of a step's tensors, by its kind."""


@dataclass(frozen=True, eq=False, repr=False)
class Head:
    """Checked steps from the features ``[n,inputs]`` to ``[n,outputs]``, and the names of the classes, if known.

    Raises:
        WeightsError: if shapes don't fit together, values are not finite, or the number of names is wrong.
    """

    steps: tuple[Step, ...]
    classes: tuple[str, ...] | None = None
    inputs: int = DEFAULT.features

    def __post_init__(self) -> None:
        inputs, total = self.inputs, 0
        for step in self.steps:
            inputs = _check(step, inputs)
            total += sum(values.size for values in step.tensors.values())
        if total > LIMIT:
            raise WeightsError(f"head: expected at most {LIMIT} values, got {total}")
        if self.classes is not None and len(self.classes) != self.count:
            raise WeightsError(f"classes: expected {self.count} names, got {len(self.classes)}")

    @property
    def tensors(self) -> dict[str, _Array]:
        """The steps' tensors, as ``head/<step>/<tensor>``."""
        steps = enumerate(self.steps)
        return {f"{PREFIX}{number}/{name}": values for number, step in steps for name, values in step.tensors.items()}

    @property
    def outline(self) -> tuple[Any, ...]:
        """Everything except the tensors."""
        return tuple((step.kind, step.name) for step in self.steps), self.classes

    @property
    def outputs(self) -> int:
        """Length of a row of the result."""
        widths = [step.tensors["bias"].size for step in self.steps if step.kind == "dense"]
        return int(widths[-1]) if widths else self.inputs

    @property
    def activation(self) -> str:
        """The last step's activation, "linear" if it has none."""
        last = self.steps[-1].kind if self.steps else ""
        return last if last in ACTIVATIONS else "linear"

    @property
    def count(self) -> int:
        """The number of classes. A head with a single output has two."""
        return 2 if self.outputs == 1 else self.outputs

    def runner(self, isa: str) -> "Runner":
        """A runner of this head for an instruction set."""
        return Runner(self, isa)

    def probabilities(self, outputs: _Array) -> NDArray[np.float64]:
        """Convert the result of ``predict``, ``[n,outputs]``, to probabilities ``[n,count]``.

        The outputs of a last layer without activation are logits. A single output belongs to the second of two classes.
        """
        values = outputs.astype(np.float64)
        if self.outputs == 1:
            second = sigmoid(values) if self.activation == "linear" else values
            return np.concatenate([1 - second, second], axis=-1)
        return softmax(values) if self.activation == "linear" else values


def _check(step: Step, inputs: int) -> int:
    """Check the step's tensors and return the length of its output rows. Raises WeightsError."""
    shapes = {name: values.shape for name, values in step.tensors.items()}
    if step.kind == "dense":
        outputs = int(step.tensors["bias"].size) if "bias" in shapes else 0
        expected = {"kernel": (inputs, outputs), "bias": (outputs,)}
        if outputs < 1 or shapes != expected:
            raise WeightsError(f"{step.name}: expected a kernel [{inputs}, n] and n biases, got {shapes}")
    elif step.kind == "affine":
        outputs = inputs
        if shapes != {"scale": (inputs,), "shift": (inputs,)}:
            raise WeightsError(f"{step.name}: expected scale and shift of {inputs} values, got {shapes}")
    elif step.kind in ACTIVATIONS and not shapes:
        outputs = inputs
    else:
        raise WeightsError(f"{step.name}: expected dense, affine or one of {', '.join(ACTIVATIONS)}, got {step.kind!r}")
    for name, values in step.tensors.items():
        if not np.isfinite(values).all():
            raise WeightsError(f"{step.name}: {name} has values that are not finite")
    return outputs


class Runner:
    """A head with its dense layers packed for one instruction set. Immutable, safe from many threads."""

    def __init__(self, head: Head, isa: str) -> None:
        self._steps: list[tuple[Step, Any]] = []
        for step in head.steps:
            dense = None
            if step.kind == "dense":
                kernel, bias = (np.ascontiguousarray(step.tensors[name], np.float32) for name in TENSORS["dense"])
                dense = _engine.Dense(isa, kernel, bias)
            self._steps.append((step, dense))

    def run(self, features: _Array) -> _Array:
        """Compute the head: C-contiguous float32 ``[n,inputs]`` -> float32 ``[n,outputs]``."""
        x = features
        for step, dense in self._steps:
            if dense is not None:
                y = np.empty((len(x), dense.outputs), np.float32)
                dense.run(x, len(x), y)
                x = y
            elif step.kind == "affine":
                x = x * step.tensors["scale"] + step.tensors["shift"]
            else:
                x = ACTIVATIONS[step.kind](x.astype(np.float64)).astype(np.float32)
        return x


def named(head: Head | None, classes: Sequence[str] | None) -> Head | None:
    """The head with these class names; unchanged if ``classes`` is None.

    Raises:
        TypeError: if ``classes`` is not a sequence of str.
        WeightsError: if there is no head, or the number of names is wrong.
    """
    if classes is None:
        return head
    names = tuple(classes)
    if isinstance(classes, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"classes: expected a sequence of str, got {classes!r}")
    if head is None:
        raise WeightsError("classes: the weights have no head whose classes could be named")
    return Head(head.steps, names, head.inputs)
