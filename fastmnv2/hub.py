"""TensorFlow Hub's functions on this engine: change one import of a script, and remove the session.

>>> from fastmnv2 import hub  # instead of: import tensorflow_hub as hub
>>> module = hub.Module("https://tfhub.dev/google/imagenet/mobilenet_v2_075_96/feature_vector/2")  # doctest: +SKIP
>>> height, width = hub.get_expected_image_size(module)  # doctest: +SKIP
>>> features = module(images)  # doctest: +SKIP

Results are numpy arrays, computed at once: there is no graph, and nothing to initialise.
"""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmnv2.core import model_cache
from fastmnv2.core.model import Model

_Outputs = dict[str, NDArray[np.float32]]

_SIGNATURES = ("default", "image_feature_vector", "image_classification")


class Module:
    """A hub module for inference, like ``tensorflow_hub.Module``.

    Args:
        spec: a handle or anything else that ``fastmnv2.load`` takes, or a ``Model``.
        trainable: must be False; ``fastmnv2.keras`` is for training.
        name: stored as an attribute, but not used.
        tags: must be empty; the module's {"train"} graph is ``fastmnv2.keras.build(...)(images, training=True)``.

    Raises:
        ValueError: if ``trainable`` or ``tags`` request training.
        FileNotFoundError, WeightsError: as ``fastmnv2.load``.
    """

    def __init__(
        self,
        spec: str | os.PathLike[str] | Model,
        trainable: bool = False,
        name: str = "module",
        tags: Any = None,
    ) -> None:
        if trainable or tags:
            raise ValueError(
                f"expected trainable=False and no tags, got trainable={trainable!r} and tags={tags!r}; "
                "fastmnv2.keras.build makes a model to train"
            )
        self.model = spec if isinstance(spec, Model) else model_cache.model(spec)
        self.name = name

    def __call__(
        self, inputs: Any = None, _sentinel: Any = None, signature: str | None = None, as_dict: bool = False
    ) -> Any:
        """Apply the module to images.

        Args:
            inputs: images as ``Model.embed`` takes them, or ``{"images": images}``.
            signature: "default" or "image_feature_vector" for features, "image_classification" for logits.
            as_dict: return all outputs of the signature by name. For "image_feature_vector" and
                "image_classification" these include the network's 70 endpoints.

        Returns:
            float32 ``[n,features]`` or ``[n,1001]``, or a dict of arrays.

        Raises:
            ValueError: if the signature or the input's name is unknown.
            TypeError, ValueError, WeightsError: as ``Model.embed`` and ``Model.logits``.
        """
        name = signature or "default"
        if _sentinel is not None:
            raise TypeError("signature and as_dict: expected as keyword arguments, got positional ones")
        if name not in self.get_signature_names():
            raise ValueError(f"signature: expected {' or '.join(self.get_signature_names())}, got {signature!r}")
        if isinstance(inputs, dict):
            if list(inputs) != ["images"]:
                raise ValueError(f"inputs: expected the name 'images', got {sorted(map(str, inputs))}")
            inputs = inputs["images"]
        if not as_dict:
            return self.model.logits(inputs) if name == "image_classification" else self.model.embed(inputs)
        if name == "default":
            return {"default": self.model.embed(inputs)}
        outputs: _Outputs = self.model.endpoints(inputs)
        if name == "image_classification":
            outputs |= {"MobilenetV2/feature_vector": outputs["default"], "default": self.model.logits(inputs)}
        return outputs

    def get_signature_names(self) -> list[str]:
        """Valid names for ``signature``."""
        return list(_SIGNATURES if self.model.has_logits else _SIGNATURES[:2])

    def get_input_info_dict(self, signature: str | None = None) -> dict[str, tuple[np.dtype[Any], tuple[Any, ...]]]:
        """Type and shape of each input, by name."""
        return {"images": (np.dtype(np.float32), (None, *get_expected_image_size(self), 3))}

    def get_output_info_dict(self, signature: str | None = None) -> dict[str, tuple[np.dtype[Any], tuple[Any, ...]]]:
        """Type and shape of each output, by name."""
        empty = np.empty((0, *get_expected_image_size(self), 3), np.float32)
        outputs = self(empty, signature=signature, as_dict=True)
        return {name: (value.dtype, (None, *value.shape[1:])) for name, value in outputs.items()}


def load(handle: str | os.PathLike[str]) -> Module:
    """A module to call with images, like the one that ``tensorflow_hub.load`` returns for a TF2 SavedModel."""
    return Module(handle)


def get_expected_image_size(
    module_or_spec: Module | Model | str | os.PathLike[str],
    signature: str | None = None,
    input_name: str | None = None,
) -> tuple[int, int]:
    """Height and width, in pixels, of the images that a module, or the module of a handle, takes."""
    return model_cache.image_size(module_or_spec.model if isinstance(module_or_spec, Module) else module_or_spec)


def get_num_image_channels(module_or_spec: Any, signature: str | None = None, input_name: str | None = None) -> int:
    """Number of channels of the images: 3, for red, green and blue."""
    return 3
