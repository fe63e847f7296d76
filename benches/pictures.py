"""From picture files to vectors: fastmnv2 compared with hand-written code, and the time of each stage.

    python benches/pictures.py                 # all tables of docs/pictures.md
    python benches/pictures.py small stages    # 500 JPEGs of 640x480, and the time of each stage

In the hand-written code ("peer"), a thread pool runs Pillow's open, convert and resize, and LiteRT's float32 network
takes batches of 32. Both sides run in one process, in turn. The best of several rounds counts, because other work on
the machine can only make a run slower. The files are JPEGs of quality 90, made from the photos in FASTMNV2_TEST_DATA
(default ../shared) with added grain, or from noise if there are no photos.
"""

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import peers
import PIL.Image

import fastmnv2
from fastmnv2.core.network import Network
from fastmnv2.image import resizing

THREADS = 2
BATCH = 32
DATA = Path(os.environ.get("FASTMNV2_TEST_DATA", Path(__file__).parents[2] / "shared"))
CASES = {"small": (500, (640, 480)), "large": (60, (4000, 3000))}


def make_files(folder: Path, count: int, size: tuple[int, int]) -> list[str]:
    """Write JPEGs like a camera's: all different, 4:2:0, with some grain. Return their paths."""
    paths = [str(folder / f"{size[0]}-{i:03}.jpg") for i in range(count)]
    if all(map(os.path.exists, paths)):
        return paths
    random = np.random.RandomState(1)
    found = sorted(path for path in (DATA / "photos").glob("*") if path.suffix in (".png", ".jpg", ".bmp"))
    sources = [PIL.Image.open(path).convert("RGB") for path in found]
    sources = sources or [PIL.Image.fromarray(random.randint(0, 256, (40, 60, 3)).astype(np.uint8))]
    grain = random.normal(0, 3, (size[1], size[0], 1)).astype(np.float32)
    for i, path in enumerate(paths):
        source = sources[i % len(sources)]
        left, top = (random.randint(0, max(1, edge // 5)) for edge in source.size)
        picture = source.crop((left, top, *source.size)).resize(size, PIL.Image.Resampling.BICUBIC)
        noisy = np.asarray(picture, np.float32) + np.roll(grain, random.randint(size[0]), axis=1)
        PIL.Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return paths


def ours(model: fastmnv2.Model, decode: str = "exact", method: str = "tf2") -> Callable[[list[str]], np.ndarray]:
    return lambda paths: model.embed_images(paths, threads=THREADS, decode=decode, method=method)


def peer(models: Path, network: Network, *, draft: bool = False) -> Callable[[list[str]], np.ndarray]:
    edges = network.size[::-1]  # Pillow wants the width first
    run = peers.PEERS["litert"].make(models, THREADS, BATCH)
    low, high = peers.PEERS["litert"].input_range

    def load(path: str) -> np.ndarray:
        with PIL.Image.open(path) as opened:
            if draft:
                opened.draft("RGB", edges)
            picture = opened.convert("RGB").resize(edges, PIL.Image.Resampling.BILINEAR)
        return np.asarray(picture, np.float32) * np.float32((high - low) / 255) + np.float32(low)

    def loaded(paths: list[str]) -> Iterator[np.ndarray]:
        waiting: deque = deque()
        with ThreadPoolExecutor(THREADS) as pool:
            for path in paths:
                waiting.append(pool.submit(load, path))
                if len(waiting) >= 2 * BATCH:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def embed(paths: list[str]) -> np.ndarray:
        rows, batch = [], []
        for picture in loaded(paths):
            batch.append(picture)
            if len(batch) == BATCH:
                rows.append(run(np.stack(batch)).copy())
                batch = []
        if batch:
            count = len(batch)
            rows.append(run(np.stack(batch + batch[:1] * (BATCH - count)))[:count].copy())
        return np.concatenate(rows)

    return embed


def best(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The minimum seconds of each call; the calls take turns."""
    minimum = dict.fromkeys(calls, 1e9)
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            minimum[name] = min(minimum[name], time.perf_counter() - start)
    return minimum


def compare(models: Path, model: fastmnv2.Model, folder: Path, case: str, rounds: int) -> dict[str, float]:
    """Pictures per second of each engine."""
    count, size = CASES[case]
    paths = make_files(folder, count, size)
    engines = {"exact": ours(model), "area": ours(model, method="area"), "peer": peer(models, model.network)}
    if case == "large":
        engines |= {"scaled": ours(model, decode="scaled"), "peer with draft": peer(models, model.network, draft=True)}
    for engine in engines.values():
        engine(paths[:BATCH])
    times = best({name: lambda engine=engine: engine(paths) for name, engine in engines.items()}, rounds)
    return {name: round(count / seconds, 1) for name, seconds in times.items()}


def stages(model: fastmnv2.Model, folder: Path) -> dict[str, dict[str, float]]:
    """Milliseconds of each stage, for one picture on one thread."""
    found = {}
    out, edges = np.empty(model.network.image_shape, np.float32), model.network.size[::-1]
    for case, (_, size) in CASES.items():
        data = Path(make_files(folder, 1, size)[0]).read_bytes()
        picture = PIL.Image.open(io.BytesIO(data)).convert("RGB")
        array = np.asarray(picture)
        room = np.empty(array.nbytes, np.uint8)
        calls: dict[str, Callable[[], object]] = {
            "Pillow decodes": lambda data=data: PIL.Image.open(io.BytesIO(data)).load(),
            "Pillow decodes with draft": lambda data=data: _drafted(data, edges).load(),
            "Pillow to array": lambda picture=picture: np.asarray(picture),
            "Pillow resizes": lambda picture=picture: picture.resize(edges, PIL.Image.Resampling.BILINEAR),
            "resize, tf2": lambda array=array: resizing.resize_array(array, out, "tf2", resizing.UNIT),
            "resize, area": lambda array=array: resizing.resize_array(array, out, "area", resizing.UNIT),
            "network": lambda: model.embed(out, threads=1),
            "bytes to vector": lambda data=data: model.embed_images([data], threads=1),
        }
        try:
            import simplejpeg
        except ImportError:
            pass
        else:
            calls["simplejpeg decodes"] = lambda data=data: simplejpeg.decode_jpeg(data)
            calls["simplejpeg decodes, memory reused"] = lambda data=data, room=room: simplejpeg.decode_jpeg(
                data, buffer=room
            )
            calls["simplejpeg decodes, scaled"] = lambda data=data: simplejpeg.decode_jpeg(
                data, min_height=2 * edges[1], min_width=2 * edges[0], min_factor=8
            )
        rounds = 200 if case == "small" else 15
        found[case] = {name: round(seconds * 1e3, 3) for name, seconds in best(calls, rounds).items()}
    return found


def _drafted(data: bytes, edges: tuple[int, ...]) -> PIL.Image.Image:
    opened = PIL.Image.open(io.BytesIO(data))
    opened.draft("RGB", edges)
    return opened


def effect_of_scaling(model: fastmnv2.Model, folder: Path) -> dict[str, float]:
    """Mean relative L2 change of the features when the decoder shrinks pictures, and between methods."""
    paths = make_files(folder, 12, (2000, 1500))
    found = {}
    for method in resizing.METHODS:
        exact = model.embed_images(paths, method=method)
        scaled = model.embed_images(paths, method=method, decode="scaled")
        found[f"scaled, {method}"] = _relative(exact, scaled)
    plain, area = (model.embed_images(paths, method=method) for method in ("tf2", "area"))
    return found | {"area instead of tf2": _relative(plain, area)}


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    return round(float((np.linalg.norm(a - b, axis=1) / np.linalg.norm(a, axis=1)).mean()), 4)


def peak_memory(folder: Path, weights: Path) -> float:
    """The peak growth of the process's memory per thread, in units of a decoded picture of 12 megapixels."""
    paths = make_files(folder, 8, (4000, 3000))
    command = [sys.executable, __file__, "--grow", str(weights), *paths]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return round(grown / (4000 * 3000 * 3) / THREADS, 2)


def grow(weights: str, paths: list[str]) -> None:
    """Print by how many bytes this process's memory grows at most while it embeds the pictures."""
    model = fastmnv2.load(weights)
    small = io.BytesIO()
    PIL.Image.new("RGB", (300, 200)).save(small, "JPEG")
    model.embed_images([small.getvalue()] * 64, threads=THREADS)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = _status("VmRSS")
    model.embed_images(paths * 3, threads=THREADS)
    print(_status("VmHWM") - before)


def _status(what: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["small", "large", "stages", "memory", "scaling"])
    parser.add_argument("--weights", default="untrained")
    parser.add_argument("--folder", type=Path, help="keep files and models here for the next run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--grow", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.grow:
        grow(options.grow[0], options.grow[1:])
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        if not (folder / "network.tflite").exists():
            peers.make_models(folder, options.weights, {"native", "tflite"})
        model = fastmnv2.load(folder / "native.safetensors")
        print(json.dumps({"machine": platform.processor() or platform.machine(), "isa": model.isa}))
        for part in options.parts:
            if part in CASES:
                found = compare(folder, model, folder, part, options.rounds)
            elif part == "stages":
                found = stages(model, folder)
            elif part == "memory":
                found = {"decoded pictures a thread": peak_memory(folder, folder / "native.safetensors")}
            else:
                found = effect_of_scaling(model, folder)
            print(json.dumps({part: found}, indent=1), flush=True)


if __name__ == "__main__":
    main()
