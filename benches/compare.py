"""Compare fastmnv2 with the engines that are installed: a table, a JSON file and two plots.

    python benches/compare.py --json results.json --plots docs/

All engines use the same weights, and their outputs are compared before timing. measure.py explains the timing.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import export
import numpy as np
from measure import Case, Result, Worker, interleaved, summary
from peers import PEERS

import fastmnv2
from fastmnv2.core import profile
from fastmnv2.core.network import Network
from fastmnv2.weights.resolve import resolve

OURS = "fastmnv2"


def version(name: str) -> str:
    """The version of an engine's package. Raises PackageNotFoundError, except for fastmnv2, which may lack metadata."""
    return fastmnv2.__version__ if name.startswith(OURS) else importlib.metadata.version(PEERS[name].distribution)


def installed(names: Sequence[str]) -> list[str]:
    found = []
    for name in names:
        try:
            version(name)
            found.append(name)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name}: not installed ({PEERS[name].distribution})", file=sys.stderr)
    return found


def make_models(folder: Path, weights: str, names: Sequence[str]) -> Network:
    """Write each format in a separate process, because the converters' libraries clash. Return the network."""
    here = str(Path(__file__).parent)
    for form in sorted({form for name in names for form in PEERS[name].needs}):
        code = f"import sys; sys.path.insert(0, {here!r}); import pathlib, peers; "
        code += f"peers.make_models(pathlib.Path({str(folder)!r}), {weights!r}, {{{form!r}}})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"{form}: could not be written:\n{done.stderr[-2000:]}", file=sys.stderr)
    rng = np.random.RandomState(3)
    network = resolve(weights).network
    images = export.patches(rng, 16, network)
    np.save(folder / "images.npy", (np.rint(images * 255) / 255).astype(np.float32))  # rounded to bytes, like pictures
    return network


def start(names: Sequence[str], threads: Sequence[int], folder: Path) -> dict[tuple[str, int], Worker]:
    """Start the workers and check that their features agree with ours."""
    cpus = sorted(os.sched_getaffinity(0))
    workers: dict[tuple[str, int], Worker] = {}
    expected: dict[str, np.ndarray] = {}  # our features, by network
    for name in sorted(names, key=lambda name: not name.startswith(OURS)):
        for count in threads:
            worker = Worker(name, count, folder, set(cpus[-count:]))
            answer = worker.ask(batch=8, features=str(folder / "features.npy"))
            if "error" in answer:
                print(f"{name}: {answer['error']}", file=sys.stderr)
                worker.close()
                continue
            features = np.load(folder / "features.npy")
            ours = expected.setdefault(PEERS[name].network, features)
            difference = np.linalg.norm(features - ours) / np.linalg.norm(ours)
            if not difference < PEERS[name].tolerance:
                raise SystemExit(f"{name}: its features differ from ours by {difference:.1e}: not the same network")
            workers[name, count] = worker
    return workers


def table(results: dict[Case, Result]) -> str:
    lines = ["| n | threads | engine | median ms | best ms | p99 - median ms | share of limit | against fastmnv2 |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for case in sorted(results, key=lambda case: (case.threads, case.batch, results[case].median)):
        network = PEERS[case.peer].network
        same = next(name for name, peer in PEERS.items() if name.startswith(OURS) and peer.network == network)
        result, ours = results[case], results.get(Case(same, case.threads, case.batch))
        against = f"{result.median / ours.median:.2f}x" if ours else ""
        lines.append(
            f"| {case.batch} | {case.threads} | {case.peer} | {result.median * 1e3:.3f} | {result.best * 1e3:.3f} | "
            f"{(result.p99 - result.median) * 1e3:.3f} | {result.share:.0%} | {against} |"
        )
    return "\n".join(lines)


def machine(names: Sequence[str]) -> dict[str, Any]:
    model = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    versions = {name: version(name) for name in names}
    return {"processor": model, "cpus": len(os.sched_getaffinity(0)), "isa": fastmnv2.isa(), "versions": versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=",".join(PEERS), help="engines, separated by commas")
    parser.add_argument("--batches", default="1,8,32,128", help="images per call (default 1,8,32,128)")
    every = ",".join({"1": 0, str(len(os.sched_getaffinity(0))): 0})
    parser.add_argument("--threads", default=every, help=f"numbers of threads (default {every})")
    parser.add_argument("--rounds", type=int, default=9, help="bursts of each case (default 9)")
    parser.add_argument(
        "--weights", default="untrained", help="a file or name that records its size (default untrained)"
    )
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--plots", type=Path, help="folder for the plots; needs matplotlib")
    options = parser.parse_args()
    batches = [int(batch) for batch in options.batches.split(",")]
    threads = [int(count) for count in options.threads.split(",")]
    names = installed(options.peers.split(","))
    with tempfile.TemporaryDirectory() as scratch:
        network = make_models(Path(scratch), options.weights, names)
        workers = start(names, threads, Path(scratch))
        pings = [profile.ping()]
        try:
            bursts = list(interleaved(workers, batches, options.rounds))
            pings.append(profile.ping())
        finally:
            for worker in workers.values():
                worker.close()
    cases = [Case(name, count, batch) for name, count in workers for batch in batches]
    results = {case: found for case in cases if (found := summary(bursts, case, network.macs))}
    about = machine(names) | {"network": network.name, "macs": network.macs}
    for count in threads:
        peaks = [burst["peak"] for burst in bursts if burst["case"].threads == count]
        about[f"peak_{count}"] = float(np.median(peaks)) if peaks else None
    peaks = ", ".join(f"{about[f'peak_{count}'] / 1e9:.1f} GMAC/s on {count} cores" for count in threads)
    about["ping"] = pings
    latencies = " and ".join(f"{ping * 1e9:.0f}" for ping in pings)
    print(
        f"{network.name} on {about['processor']}, {about['isa']}; peak {peaks}; "
        f"a cache line takes {latencies} ns from core to core\n"
    )
    print(table(results))
    if options.json:
        report = {
            "machine": about,
            "results": [case._asdict() | results[case]._asdict() for case in results],
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.plots:
        from plots import draw

        draw(results, about, options.weights, options.plots)


if __name__ == "__main__":
    main()
