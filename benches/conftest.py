"""Fixtures for the pytest benchmarks: models made once, and the machine's peak in every report."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import measure
from compare import installed, make_models
from peers import PEERS

import fastmnv2

WEIGHTS = os.environ.get("FASTMNV2_BENCH_WEIGHTS", "untrained")  # of any network
ENGINES = installed([name for name in ("fastmnv2", "litert", "tensorflow") if name in PEERS])


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    make_models(folder, WEIGHTS, ENGINES)
    return folder


@pytest.fixture(scope="session")
def network():
    return fastmnv2.load(WEIGHTS).network


@pytest.fixture(scope="session")
def pool(models):
    return np.load(models / "images.npy")


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["peak_gmacs_1_thread"] = round(max(measure.peak(1) for _ in range(10)) / 1e9, 1)


def pytest_benchmark_update_json(config, benchmarks, output_json):
    """Add the share of the multiply-add limit, from the peak measured next to each benchmark."""
    for entry in output_json["benchmarks"]:
        extra = entry["extra_info"]
        if "peak_gmacs" in extra:
            limit = extra["macs"] * extra["n"] / (extra["peak_gmacs"] * 1e9)
            extra["share_of_limit"] = round(limit / entry["stats"]["median"], 3)
