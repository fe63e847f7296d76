"""TF-Slim checkpoints: a tensor bundle with variables, optimiser slots and moving averages."""

import itertools
import os
import re
from pathlib import Path

from fastmnv2.weights.files import exists, read_file
from fastmnv2.weights.forms import bundle, object_graph
from fastmnv2.weights.forms.slim_names import EMA, slim_name
from fastmnv2.weights.tensors import Source

_STATE_LIMIT = 1 << 20


def prefix_of(path: Path) -> Path | None:
    """The prefix of the bundle at ``path``, which may be a prefix, a bundle's file, or a folder with one bundle."""
    if os.path.isdir(path):
        state = path / "checkpoint"
        if state.is_file() and state.stat().st_size < _STATE_LIMIT:
            text = read_file(state, _STATE_LIMIT).decode(errors="replace")
            named = re.search(r'^model_checkpoint_path: "([^"\0]*)"', text, re.MULTILINE)
            if named and exists(path / (Path(named[1]).name + ".index")):
                return path / Path(named[1]).name
        with os.scandir(path) as entries:  # lazily, because a folder may have very many entries
            indices = [*itertools.islice((entry.name for entry in entries if entry.name.endswith(".index")), 2)]
        return path / indices[0].removesuffix(".index") if len(indices) == 1 else None
    name = re.sub(r"\.(index|data-\d{5}-of-\d{5}|meta)$", "", path.name)
    if not name:
        return None
    prefix = path.with_name(name)
    return prefix if exists(prefix.with_name(name + ".index")) else None


def read(prefix: Path) -> Source:
    """Variables under their slim names; moving averages take precedence over raw values.

    TF-Slim averages only the trainable variables, not the batch norms' moving statistics.
    """
    opened = bundle.Bundle(prefix)
    if object_graph.KEY in opened.entries:
        return object_graph.read(opened, "checkpoint", str(prefix))
    return read_bundle(opened, "checkpoint", str(prefix))


def read_bundle(opened: bundle.Bundle, form: str, origin: str) -> Source:
    """Read the variables of an opened bundle, as ``read`` does."""
    chosen: dict[str, str] = {}  # slim name: name in the file
    for name in opened.entries:
        plain = slim_name(name)
        if plain is not None and (plain not in chosen or name.endswith(EMA)):
            chosen[plain] = name
    used = set(chosen.values())
    tensors = opened.tensors(used)
    averaged = sum(name.endswith(EMA) for name in used)
    notes = []
    if averaged:
        notes.append(f"{averaged} variables are exponential moving averages")
    ignored = len(opened.entries) - len(used)
    if ignored:
        notes.append(f"{ignored} other tensors of the bundle (such as raw values and optimiser slots) are ignored")
    return Source(
        form,
        origin,
        opened.sha256(),
        {plain: tensors[name] for plain, name in chosen.items()},
        tuple(notes),
    )
