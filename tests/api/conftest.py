"""Calls get the number of threads that they request on any machine, because the bits must not depend on it."""

import pytest

import fastmnv2.core.threads


@pytest.fixture(autouse=True)
def _many_processors(request, monkeypatch):
    if "real_processors" not in request.fixturenames:
        monkeypatch.setattr("fastmnv2.core.threads.usable", lambda: 64)


@pytest.fixture
def real_processors():
    return fastmnv2.core.threads.usable()
