"""Resident memory does not grow over many calls and many short-lived models."""

import gc
import os
import sys

import numpy as np
import pytest

import fastmnv2

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")


def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def growth(turns, turn):
    """The growth of resident memory, in bytes, over the last nine tenths of the iterations."""
    for number in range(turns // 10):
        turn(number)
    before = resident()
    for number in range(turns // 10, turns):
        turn(number)
    return resident() - before


@pytest.mark.parametrize("calls", [600, pytest.param(20_000, marks=pytest.mark.slow)])
def test_calls(untrained_native, images, calls):
    model = fastmnv2.load(untrained_native)
    want, byte_images = model.embed(images[0]), (images * 255).astype(np.uint8)
    out = np.empty(1280, np.float32)

    def turn(number):
        if number % 4 == 0:
            model.embed(images[0], out=out, threads=1 + number // 4 % 2)
        elif number % 4 == 1:
            assert (model.embed(images[0], threads=1) == want).all()
        else:
            fastmnv2.embed(byte_images[0], weights=model, threads=1)
        if number % 100 == 0:
            with pytest.raises(ValueError, match="expected shape"):
                model.embed(images[0, 1:])

    grown = growth(calls, turn)
    print(f"{calls} calls: {grown} bytes more than after a tenth of them")
    assert grown < 2 << 20


@pytest.mark.parametrize("loads", [60, pytest.param(1_000, marks=pytest.mark.slow)])
def test_loads(untrained_native, images, loads):
    def turn(number):
        model = fastmnv2.load(untrained_native)
        if number % 10 == 0:
            model.embed(images[:1], threads=2)

    grown = growth(loads, turn)
    print(f"{loads} loads: {grown} bytes more than after a tenth of them")
    assert grown < 8 << 20  # less than one model takes


def test_a_leak_would_be_noticed(untrained_native):
    kept = []
    grown = growth(20, lambda number: kept.append(fastmnv2.load(untrained_native)))
    assert grown > 8 << 20
