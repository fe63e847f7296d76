"""Builders of files under 20 MB that demand much more memory or time, by form. Other tests use their parts too."""

import gzip
import io
import json
import os
import struct
import tarfile
import zipfile

import numpy as np

from fastmnv2.core import _engine
from fastmnv2.core.network import BATCH_NORM, DEFAULT
from fastmnv2.weights.forms import bundle

# ---- tensor bundles ------------------------------------------------------------------------------------


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def masked_crc(data):
    crc = _engine.crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def record(key, value, shared=0):
    return varint(shared) + varint(len(key)) + varint(len(value)) + key + value


def block(records):
    body = b"".join(records) + (0).to_bytes(4, "little") + (1).to_bytes(4, "little")
    return body, body + b"\0" + masked_crc(body + b"\0").to_bytes(4, "little")


def write_index(path, data_blocks, handles=None):
    """A LevelDB table of ``data_blocks`` (lists of records), with an index of all of them or of ``handles``."""
    table, places = b"", []
    for records in data_blocks:
        body, stored = block(records)
        places.append(varint(len(table)) + varint(len(body)))
        table += stored
    body, stored = block([record(b"k", place) for place in (handles(places) if handles else places)])
    footer = varint(0) + varint(0) + varint(len(table)) + varint(len(body))
    path.write_bytes(table + stored + footer.ljust(40, b"\0") + bundle._MAGIC.to_bytes(8, "little"))
    return path


HEADER = record(b"", field(1, 1))


def entry(shape, offset, size, crc, dtype=1):
    dims = b"".join(field(2, field(1, size)) for size in shape)
    return field(1, dtype) + field(2, dims) + field(4, offset) + field(5, size) + varint(6 << 3 | 5) + crc


def overlapping_blocks(folder):
    records = [HEADER, *(record(b"%09d" % i, b"") for i in range(60_000))]
    return write_index(folder / "m.index", [records], lambda places: places * 100_000)


def growing_names(folder):
    return write_index(folder / "m.index", [[HEADER, *(record(b"x", b"", i) for i in range(300_000))]])


def many_records(folder):
    return write_index(folder / "m.index", [[HEADER, *(record(b"", b"") for _ in range(600_000))]])


def many_fields(folder):
    return write_index(folder / "m.index", [[HEADER, record(b"name", field(1, 1) * 990_000)]])


def many_dimensions(folder):
    dims = field(2, field(1, 1 << 62)) * 100_000
    return write_index(folder / "m.index", [[HEADER, record(b"MobilenetV2/Conv/weights", field(2, dims))]])


def overlapping_tensors(folder):
    data = bytes(16 << 20)
    crc = masked_crc(data).to_bytes(4, "little")
    names = [f"{layer.scope}/BatchNorm/{name}" for layer in DEFAULT.layers[:-1] for name in BATCH_NORM]
    records = [record(name.encode(), entry([len(data) // 4], 0, len(data), crc)) for name in sorted(names)]
    (folder / "m.data-00000-of-00001").write_bytes(data)
    return write_index(folder / "m.index", [[HEADER, *records]])


def object_graph(folder, graph):
    """A TF2 SavedModel with this object graph."""
    (folder / "saved_model.pb").write_bytes(b"")
    (folder / "variables").mkdir(exist_ok=True)
    data = varint(len(graph)) + bytes(4) + graph
    stored = entry([], 0, len(data), bytes(4), dtype=7)
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(data)
    write_index(folder / "variables" / "variables.index", [[HEADER, record(b"_CHECKPOINTABLE_OBJECT_GRAPH", stored)]])
    return folder


def graph_of_many_variables(folder):
    names = (field(1, field(2, field(2, b"n") + field(3, b"%07d" % i))) for i in range(150_000))
    return object_graph(folder, b"".join(names))


def graph_of_many_fields(folder):
    return object_graph(folder, field(1, field(2, field(1, 1) * 1_900_000)))


def huge_graph(folder):
    return object_graph(folder, field(1, b"") * 9_000_000)


def one_file_with_many_names(folder):
    (folder / "m.data-00000-of-01000").write_bytes(bytes(19 << 20))
    for number in range(1, 1000):
        os.link(folder / "m.data-00000-of-01000", folder / f"m.data-{number:05d}-of-01000")
    return write_index(folder / "m.index", [[record(b"", field(1, 1000))]])


def many_indices(folder):
    for number in range(20_000):
        (folder / f"{number}.index").touch()
    return folder


# ---- archives ------------------------------------------------------------------------------------------


def tar_of(folder, members):
    with tarfile.open(folder / "m.tar.gz", "w:gz", format=tarfile.USTAR_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return folder / "m.tar.gz"


def member(name, data, type=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data), type
    return info, data


def many_members(folder):
    return tar_of(folder, (member(f"{i}", b"") for i in range(150_000)))


def long_extended_header(folder):
    return tar_of(folder, [member("x", b"1" * (90 << 20), tarfile.XHDTYPE), member("y", b"")])


def quadratic_extended_headers(folder):  # CVE-2024-6232
    return tar_of(folder, [member("x", b"1" * 35_000, tarfile.XHDTYPE), member("y", b"")] * 100)


def headers_after_a_folder(folder):
    """A folder's header may claim gigabytes, but a folder has no data, so more headers follow it."""
    unlock = tarfile.TarInfo("d")
    unlock.type, unlock.size = tarfile.DIRTYPE, (1 << 33) - 1
    long = tarfile.TarInfo("x")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 90 << 20
    path = folder / "m.tar.gz"
    with gzip.open(path, "wb") as file:
        file.write(unlock.tobuf(tarfile.USTAR_FORMAT) + long.tobuf(tarfile.USTAR_FORMAT) + b"1" * long.size)
        file.write(tarfile.TarInfo("y").tobuf() + bytes(1024))
    return path


def quadratic_headers_after_a_folder(folder):
    path = quadratic_extended_headers(folder)
    unlock = tarfile.TarInfo("d")
    unlock.type, unlock.size = tarfile.DIRTYPE, (1 << 33) - 1
    path.write_bytes(gzip.compress(unlock.tobuf(tarfile.USTAR_FORMAT) + gzip.decompress(path.read_bytes())))
    return path


def extended_header(size, keyword="size", type=tarfile.XGLTYPE):
    """A header of the given type that sets sizes to ``size``."""
    text = f" {keyword}={size}\n"
    record = f"{len(text) + len(str(len(text) + 2))}{text}".encode()
    info, data = member("pax", record, type)
    return info.tobuf(tarfile.USTAR_FORMAT) + data.ljust(512, b"\0")


def raw_tar(folder, *parts):
    (folder / "m.tar.gz").write_bytes(gzip.compress(b"".join(parts) + bytes(1024)))
    return folder / "m.tar.gz"


def headers_after_a_global_size(folder):
    """A global header sets the size of later members, so a reader would expect 80 MB of data that are headers."""
    empty, _ = member("d", b"")
    long, data = member("x", b"1" * (40 << 20), tarfile.XHDTYPE)
    unlock = extended_header(80 << 20) + empty.tobuf(tarfile.USTAR_FORMAT)
    return raw_tar(folder, unlock, long.tobuf(tarfile.USTAR_FORMAT), data, empty.tobuf(tarfile.USTAR_FORMAT))


def headers_after_their_own_size(folder):
    empty, _ = member("d", b"")
    long, data = member("x", b"1" * (40 << 20), tarfile.XHDTYPE)
    unlock = extended_header(80 << 20, "GNU.sparse.size", tarfile.XHDTYPE) + empty.tobuf(tarfile.USTAR_FORMAT)
    return raw_tar(folder, unlock, long.tobuf(tarfile.USTAR_FORMAT), data, empty.tobuf(tarfile.USTAR_FORMAT))


def many_members_after_a_global_size(folder):
    empty, _ = member("d", b"")
    return raw_tar(folder, extended_header(90 << 20), empty.tobuf(tarfile.USTAR_FORMAT) * 170_000)


def empty_gzip_members(folder):
    member = gzip.compress(b"")
    (folder / "m.tar.gz").write_bytes(member * ((19 << 20) // len(member)))
    return folder / "m.tar.gz"


def huge_member(folder):
    return tar_of(folder, [member("saved_model.pb", bytes(90 << 20)), member("variables/variables.index", b"x")])


def zip_of(folder, parts, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(folder / "k.keras", "w", compression) as archive:
        for name, data in parts:
            archive.writestr(name, data)
    return folder / "k.keras"


def many_zip_entries(folder):
    parts = [("config.json", b"{}"), ("model.weights.h5", b""), *((f"{i}", b"") for i in range(180_000))]
    return zip_of(folder, parts, zipfile.ZIP_STORED)


def zip_entries_before_a_long_comment(folder):
    """zip64's records, before a comment of the maximum length, hold the directory's true size."""
    path = many_zip_entries(folder)
    data = path.read_bytes()
    end = data.rindex(b"PK\5\6")
    count, size, offset = 180_002, *struct.unpack_from("<2L", data, end + 12)
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, 0, 0xFFFFFFFF, 65535)
    path.write_bytes(data[:end] + record + locator + last + b"c" * 65535)
    return path


def weights_in_bzip2(folder):
    return zip_of(folder, [("config.json", b"{}"), ("model.weights.h5", bytes(500 << 20))], zipfile.ZIP_BZIP2)


def configuration_in_lzma(folder):
    return zip_of(folder, [("config.json", bytes(300 << 20)), ("model.weights.h5", b"")], zipfile.ZIP_LZMA)


def names_within_names(folder):
    start = b'{"class_name":"Rescaling","config":{"name":'
    config = start * 450 + b'"' + b"x" * 1_900_000 + b'"' + b"}}" * 450
    return zip_of(folder, [("config.json", config), ("model.weights.h5", b"")])


def configuration_of_lists(folder):
    return zip_of(folder, [("config.json", b"[" + b"[]," * 20_000_000 + b"0]"), ("model.weights.h5", b"")])


def huge_weights_in_zip(folder):
    return zip_of(folder, [("config.json", b"{}"), ("model.weights.h5", bytes(95 << 20))])


# ---- HDF5 ----------------------------------------------------------------------------------------------


def hdf5(folder, change):
    import h5py

    with h5py.File(folder / "k.h5", "w") as file:
        change(file)
    return folder / "k.h5"


def one_tensor_with_many_links(folder):
    def change(file):
        file["Conv_1/kernel:0"] = np.zeros((1, 1, 240, 1280), "f4")
        for i in range(9_000):
            file[f"{i}/Conv_1"] = file["Conv_1"]

    return hdf5(folder, change)


def huge_chunk(folder):
    def change(file):
        sizes = {"maxshape": (None,) * 4, "chunks": (3, 3, 3, 8_000_000), "compression": "gzip"}
        file.create_dataset("Conv1/Conv1/kernel:0", (3, 3, 3, 24), "f4", **sizes)
        file["Conv1/Conv1/kernel:0"][:] = 1

    return hdf5(folder, change)


def long_paths(folder):
    def change(file):
        group = file
        for _ in range(15):
            group = group.create_group("x" * 30_000)
        for i in range(15_000):
            group.create_group(f"{i}")

    return hdf5(folder, change)


def long_configuration(folder):
    def change(file):
        file.attrs["model_config"] = "[" + "[]," * 6_000_000 + "0]"

    return hdf5(folder, change)


# ---- TFLite --------------------------------------------------------------------------------------------


def flatbuffer(tensor_count, shape_size, operator_count, operands, constant):
    """A model whose lists of tables and vectors all refer to the same element many times."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 20)

    def table(**slots):
        builder.StartObject(8)
        for slot, value in slots.items():
            builder.PrependUOffsetTRelativeSlot(int(slot[1:]), value, 0)
        return builder.EndObject()

    def offsets(target, count):
        builder.StartVector(4, count, 4)
        for _ in range(count):
            builder.PrependUOffsetTRelative(target)
        return builder.EndVector()

    data = builder.CreateByteVector(constant)
    shape = builder.CreateNumpyVector(np.full(shape_size, max(1, len(constant)) if shape_size == 1 else 1, "i4"))
    builder.StartObject(8)
    builder.PrependUOffsetTRelativeSlot(0, shape, 0)
    builder.PrependInt8Slot(1, 3, 0)  # uint8
    tensor = builder.EndObject()
    operand = builder.CreateNumpyVector(np.arange(operands, dtype="i4"))
    operator = table(_1=operand, _2=operand)
    builder.StartObject(8)
    builder.PrependInt8Slot(0, 6, 0)  # DEQUANTIZE
    code = builder.EndObject()
    graph = table(_0=offsets(tensor, tensor_count), _3=offsets(operator, operator_count))
    model = table(_1=offsets(code, 1), _2=offsets(graph, 1), _4=offsets(table(_0=data), 1))
    builder.Finish(model, b"TFL3")
    return bytes(builder.Output())


def written(folder, data):
    (folder / "m.tflite").write_bytes(data)
    return folder / "m.tflite"


def one_shape_for_all(folder):
    return written(folder, flatbuffer(4_900, 4_000_000, 1, 1, b"x"))


def one_list_of_operands_for_all(folder):
    return written(folder, flatbuffer(10, 1, 4_900, 4_000_000, b"x"))


def one_constant_dequantised_by_all(folder):
    return written(folder, flatbuffer(10, 1, 4_900, 2, bytes(15 << 20)))


def many_tensors(folder):
    return written(folder, flatbuffer(4_000_000, 1, 1, 1, b"x"))


# ---- native --------------------------------------------------------------------------------------------


def huge_header(folder):
    header = b'{"a":' + b"[" * (18 << 20)
    (folder / "n.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return folder / "n.safetensors"


def notes_of_lists(folder):
    strings = dict.fromkeys(("source", "source_form", "source_sha256"), "")
    metadata = {"format": "fastmnv2", "format_version": "1", "notes": "[" * 60_000} | strings
    header = json.dumps({"__metadata__": metadata}).encode()
    (folder / "n.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return folder / "n.safetensors"


BOMBS = [
    overlapping_blocks, growing_names, many_records, many_fields, many_dimensions, overlapping_tensors,
    graph_of_many_variables, graph_of_many_fields, huge_graph, one_file_with_many_names, many_indices,
    many_members, long_extended_header, quadratic_extended_headers, huge_member, empty_gzip_members,
    headers_after_a_folder, quadratic_headers_after_a_folder, headers_after_a_global_size,
    headers_after_their_own_size, many_members_after_a_global_size,
    many_zip_entries, zip_entries_before_a_long_comment, configuration_of_lists, huge_weights_in_zip,
    weights_in_bzip2, configuration_in_lzma, names_within_names,
    one_tensor_with_many_links, huge_chunk, long_paths, long_configuration,
    one_shape_for_all, one_list_of_operands_for_all, one_constant_dequantised_by_all, many_tensors,
    huge_header, notes_of_lists,
]  # fmt: skip
