"""Export weights to the formats of other engines, for ``fastmnv2 convert``.

Every exported model takes the hub module's input, images ``[n,height,width,3]`` in [0,1], and gives the features
``[n,features]``. It also gives "predictions" (the head's output) or "logits" (ImageNet's 1001 scores) if the weights
have them.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from fastmnv2._version import __version__
from fastmnv2.weights.fold import fold
from fastmnv2.weights.tensors import Folded, Source

SUFFIXES = (".safetensors", ".keras", ".h5", ".tflite", ".onnx", "")
"""Valid suffixes of a target; without one, the target is the folder of a TF2 SavedModel."""

MARK = "fastmnv2.json"
"""A file in our SavedModels, by which ``write`` recognises folders that it may replace."""

_OURS = frozenset({MARK, "saved_model.pb", "fingerprint.pb", "assets", "variables"})
_VARIABLES = re.compile(r"variables/variables\.(index|data-\d+-of-\d+)")


def write(target: str | os.PathLike[str], source: Source) -> Folded:
    """Write ``source`` to ``target``, atomically, in the form that its suffix names.

    - ``.safetensors``: the native form, folded.
    - ``.keras``, ``.h5``: a Keras model of standard layers with keras.applications' names, and with batch norms if
      ``source`` has them. Its output is the head's; without a head, ImageNet's probabilities (in a layer called
      "Logits"); without logits, the features. In a ``.keras`` file, ``classes.json`` names the head's classes.
    - ``.tflite``: float32, for one image; interpreters can resize it to more.
    - ``.onnx``: any number of images, opset 17.
    - no suffix: a folder with a TF2 SavedModel, for ``tf.saved_model.load``, ``hub.load`` and ``hub.KerasLayer``.
      Calling it gives the features; its signature "serving_default" gives all outputs.

    Returns:
        The folded weights that were written.

    Raises:
        WeightsError: if ``source`` is not complete.
        ValueError: if the suffix is unknown, if 8-bit weights were to be written to another form than
            ``.safetensors``, or if ``target`` exists and must not be replaced.
        ImportError: if a package is missing; the message names it.
        OSError: if ``target`` can't be written.
    """
    path = Path(target)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: expected a name ending in {', '.join(SUFFIXES[:-1])}, or a folder without a suffix")
    check_replaceable(path)
    if source.quantised and path.suffix.lower() != ".safetensors":
        raise ValueError(
            f"{path}: expected a name ending in .safetensors for 8-bit weights; precision float32 dequantises them"
        )
    folded = source.quantised or fold(source)
    if path.suffix.lower() == ".safetensors":
        from fastmnv2.weights.forms import native

        native.write(path, folded)
        return folded
    place = Path(os.path.realpath(path)) if path.is_symlink() else path
    # Keras requires the suffix, so the file is written under its final name in a temporary folder.
    scratch = place.parent / f".{place.name}.{os.urandom(4).hex()}.tmp"
    try:
        scratch.mkdir()
    except OSError as error:
        error.filename = str(path)  # the name that the user knows
        raise
    try:
        made = scratch / path.name
        _writer(path.suffix.lower())(made, source, folded)
        if made.is_dir():
            (made / MARK).write_text(json.dumps({"fastmnv2": __version__, "sha256": folded.sha256}) + "\n")
        check_replaceable(path)  # again, because writing takes seconds
        if place.is_dir():
            place.rename(scratch / "replaced")
        made.replace(place)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folded


def check_replaceable(path: Path) -> None:
    """Check that writing to ``path`` would replace only a file, or a SavedModel that ``write`` made.

    Raises:
        ValueError: if it would replace anything else.
    """
    if not path.exists():
        return
    if path.suffix:
        if not path.is_file():
            raise ValueError(
                f"{path}: expected a file to write, got {'a folder' if path.is_dir() else 'a special file'}"
            )
        return
    if not path.is_dir():
        raise ValueError(f"{path}: expected a folder to write, for a name without a suffix, got a file")
    if any(path.iterdir()) and not _is_ours(path):
        raise ValueError(
            f"{path}: this folder contains files that fastmnv2 did not write and is not replaced; remove it, or "
            "write to another folder"
        )


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds a SavedModel that ``write`` made, and nothing else."""
    if not (folder / MARK).is_file():
        return False
    places = (folder, folder / "assets", folder / "variables")
    if any(place.is_symlink() for place in places[1:]):
        return False
    names = (entry.relative_to(folder).as_posix() for place in places if place.is_dir() for entry in place.iterdir())
    return all(name in _OURS or _VARIABLES.fullmatch(name) for name in names)


def _writer(suffix: str) -> Callable[[Path, Source, Folded], None]:
    """The function that writes a form. Raises ImportError, with the extra to install, if a package is missing."""
    needs, module = {
        ".keras": ("train", "keras_file"),
        ".h5": ("train", "keras_file"),
        ".tflite": ("tensorflow", "tensorflow_file"),
        "": ("tensorflow", "tensorflow_file"),
        ".onnx": ("onnx", "onnx_file"),
    }[suffix]
    try:
        if module == "keras_file":
            from fastmnv2.export import keras_file

            return keras_file.write
        if module == "onnx_file":
            from fastmnv2.export import onnx_file

            return onnx_file.write
        from fastmnv2.export import tensorflow_file
    except ImportError as error:
        message = f"writing {suffix or 'a SavedModel'} needs {error.name}: pip install 'fastmnv2[{needs}]'"
        raise ImportError(message, name=error.name) from error
    return tensorflow_file.write_tflite if suffix else tensorflow_file.write_saved_model
