"""Coverage-guided fuzzing of the readers: each file must give a WeightsError or a complete, finite network.

    pip install atheris
    python tests/readers/fuzz_guided.py native [corpus folder ...] [-runs=1000000] [-max_total_time=600] ...

The options are libFuzzer's. Fuzzing starts from the folders' files, and adds new ones to the first folder. Without
folders, it starts from a copy of tests/readers/corpus/<form>. A file that breaks a reader is left in the working
directory; add it to tests/readers/corpus/<form>, which test_hostile.py reads in every run. Seeds are small, so that
they are fast; fuzz_readers.py mutates whole networks. `--seeds` makes the seeds again.
"""

import io
import os
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np

CORPUS = Path(__file__).with_name("corpus")
FORMS = ("native", "checkpoint", "graph", "archive", "h5", "keras", "tflite")
LIMIT = 1 << 16  # bytes of a file


class Matches:
    """A checksum that is equal to any other, because a fuzzer would hardly find the right one."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None


def place(form: str, data: bytes, folder: Path) -> Path:
    """Write the fuzzer's data where the reader expects it; return the path to read."""
    if form == "checkpoint":
        (folder / "m.index").write_bytes(data)
        return folder / "m.index"
    if form == "graph":  # the graph of a TF2 SavedModel, whose bundle is valid
        import bombs

        return bombs.object_graph(folder, data)
    path = folder / f"file.{form}"
    path.write_bytes(data)
    return path


def check(path: Path) -> None:
    """Read and fold. Raises for any result other than a WeightsError or a complete network."""
    from fuzz_readers import try_one

    assert len(try_one(path)) <= 30


def trust_checksums() -> None:
    """Make every checksum of a bundle pass in this process."""
    from fastmnv2.weights.forms import bundle

    bundle._unmasked = lambda _: Matches()


def main() -> None:
    import atheris

    form = sys.argv[1]
    named = [name for name in sys.argv[2:] if not name.startswith("-")]
    options = [name for name in sys.argv[2:] if name.startswith("-")]
    with atheris.instrument_imports(include=["fastmnv2", "tarfile", "zipfile", "flatbuffers"]):
        import tarfile  # noqa: F401
        import zipfile  # noqa: F401

        import flatbuffers.table  # noqa: F401
        import h5py  # noqa: F401

        import fastmnv2.weights.fold  # noqa: F401
        from fastmnv2.weights.forms import checkpoint, hdf5, hub, keras, native, tflite  # noqa: F401
    trust_checksums()
    # Runs libhdf5 in this process, because a child process takes 0.3 s for each file. libhdf5's crashes don't count.
    hdf5.read = lambda file, origin: hdf5.collect(file)
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as scratch:
        folder = Path(scratch, "files")
        folder.mkdir()
        tempfile.tempdir = scratch  # readers unpack to memory too
        if form == "checkpoint":
            (folder / "m.data-00000-of-00001").write_bytes(bytes(LIMIT))
        seeds = Path(scratch, "seeds")
        if not named:
            seeds.mkdir()
            for path in (CORPUS / form).iterdir():
                (seeds / path.name).write_bytes(path.read_bytes())
        folders = named or [str(seeds)]
        command = [sys.argv[0], *folders, "-timeout=5", "-rss_limit_mb=1000", f"-max_len={LIMIT}", *options]
        atheris.Setup(command, lambda data: check(place(form, data, folder)))
        atheris.Fuzz()


# ---- seeds ---------------------------------------------------------------------------------------------


def first_layers(network):
    """A Keras model that ends after three convolutions."""
    import keras

    return keras.Model(network.input, network.get_layer("expanded_conv_project_BN").output)


def tflites(network):
    """The network as float32, float16 and 8-bit TFLite files."""
    import tensorflow as tf

    for name in ("float", "half", "quantised"):
        converter = tf.lite.TFLiteConverter.from_keras_model(network)
        if name != "float":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if name == "half":
            converter.target_spec.supported_types = [tf.float16]
        if name == "quantised":
            images = np.random.RandomState(0).rand(4, 1, 96, 96, 3).astype(np.float32)
            converter.representative_dataset = lambda images=images: ([image] for image in images)
        yield name, converter.convert()


def save_seeds() -> None:
    """Write the smallest sensible files of every form to ``CORPUS``."""
    import bombs
    import h5py
    from keras_model import keras_model
    from make_module import make_checkpoint

    from fastmnv2.weights.forms import native
    from fastmnv2.weights.tensors import Folded
    from fastmnv2.weights.untrained import untrained

    def save(form, name, data):
        (CORPUS / form).mkdir(parents=True, exist_ok=True)
        (CORPUS / form / name).write_bytes(data)

    variables = untrained().tensors
    few = {name: variables[name] for name in list(variables)[:10]}
    network = first_layers(keras_model(variables))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        two = {name: few[name][..., :2] for name in list(few)[:2]}
        native.write(folder / "n", Folded("hub", "x", "0" * 64, two))
        save("native", "two_tensors", (folder / "n").read_bytes())

        make_checkpoint(folder / "model", few)
        save("checkpoint", "first_layers", (folder / "model.index").read_bytes())
        size = few["MobilenetV2/Conv/weights"].nbytes
        stored = bombs.entry([3, 3, 3, 24], 0, size, bytes(4))
        record = bombs.record(b"MobilenetV2/Conv/weights", stored)
        save("checkpoint", "one", bombs.write_index(folder / "i", [[bombs.HEADER, record]]).read_bytes())

        named = bombs.field(2, bombs.field(2, b"Conv1/kernel") + bombs.field(3, b"k"))
        save("graph", "one_variable", bombs.field(1, named) + bombs.field(1, b""))

        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as archive:
            index = (folder / "i").read_bytes()
            for name, data in (("saved_model.pb", b"x"), ("./variables/variables.index", index), ("é" * 60, b"")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        save("archive", "index_only", tar.getvalue())

        network.save_weights(folder / "k.weights.h5")
        save("h5", "keras3", (folder / "k.weights.h5").read_bytes())
        with h5py.File(folder / "legacy.h5", "w") as file:
            file["Conv1/Conv1/kernel:0"] = variables["MobilenetV2/Conv/weights"]
            file.attrs["model_config"] = '{"config":{"layers":[]}}'
        save("h5", "legacy", (folder / "legacy.h5").read_bytes())
        network.save(folder / "k.keras")
        save("keras", "first_layers", (folder / "k.keras").read_bytes())
        save(
            "keras",
            "nothing",
            bombs.zip_of(folder, [("config.json", b"{}"), ("model.weights.h5", b"")]).read_bytes(),
        )
        for name, data in tflites(network):
            save("tflite", name, data)
        save("tflite", "shared_parts", bombs.flatbuffer(3, 1, 2, 2, b"x"))


if __name__ == "__main__":
    if sys.argv[1:] == ["--seeds"]:
        save_seeds()
    elif sys.argv[1:2] and sys.argv[1] in FORMS:
        main()
    else:
        sys.exit(f"expected one of {', '.join(FORMS)}, or --seeds\n\n{__doc__}")
