"""Add TFLite's standard metadata to a file: the normalisation of images, and the names of the classes.

The files take images in [0,1], so the metadata records the normalisation ``(x - 0) / 255`` of pixels. Any further
scaling is part of the graph.
"""

import io
import zipfile
from collections.abc import Sequence

import flatbuffers
from tensorflow.lite.tools import flatbuffer_utils

from fastmnv2.weights.forms.tflite_metadata import METADATA

LABELS = "labels.txt"
_IDENTIFIER = b"M001"
_NORMALIZATION, _AXIS_LABELS = 1, 2  # ProcessUnitOptions, AssociatedFileType


def added(data: bytes, classes: Sequence[str] | None) -> bytes:
    """The TFLite file ``data`` with metadata, and with a zip archive appended that has the classes, one per line."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = flatbuffer_utils.convert_bytearray_to_object(data)
    buffer = schema.BufferT()
    outputs = len(model.subgraphs[0].outputs)
    buffer.data = list(_metadata(outputs, labelled=bool(classes)))
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = METADATA, len(model.buffers) - 1
    model.metadata = [*(model.metadata or ()), entry]
    written = bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    if not classes:
        return written
    packed = io.BytesIO(written)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(LABELS, "".join(" ".join(name.split()) + "\n" for name in classes))
    return packed.getvalue()


def _metadata(outputs: int, *, labelled: bool) -> bytes:
    """A ModelMetadata (metadata_schema.fbs). ``labelled``: the last output has the labels in the appended archive."""
    builder = flatbuffers.Builder(1024)

    def table(fields: dict[int, int], count: int, kind: tuple[int, int] | None = None) -> int:
        builder.StartObject(count)
        for slot, offset in fields.items():
            builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        if kind:
            builder.PrependUint8Slot(*kind, 0)
        return int(builder.EndObject())

    def vector(offsets: list[int]) -> int:
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())

    def numbers(value: float) -> int:
        builder.StartVector(4, 1, 4)
        builder.PrependFloat32(value)
        return int(builder.EndVector())

    mean, std = numbers(0.0), numbers(255.0)
    unit = table({1: table({0: mean, 1: std}, 2)}, 2, (0, _NORMALIZATION))
    image = table({0: builder.CreateString("images"), 4: vector([unit])}, 7)
    output_tables = []
    for number in range(outputs):
        files = {}
        if labelled and number == outputs - 1 and outputs > 1:
            files = {6: vector([table({0: builder.CreateString(LABELS)}, 5, (2, _AXIS_LABELS))])}
        output_tables.append(table(files, 7))
    graph = table({2: vector([image]), 3: vector(output_tables)}, 8)
    root = table({0: builder.CreateString("fastmnv2"), 3: vector([graph])}, 8)
    builder.Finish(root, file_identifier=_IDENTIFIER)
    return bytes(builder.Output())
