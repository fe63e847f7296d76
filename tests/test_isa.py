"""Choosing an instruction set, and what info() says of it."""

import pytest

import fastmnv2


def test_scalar_is_always_there():
    names = fastmnv2.available_isas()
    assert names[0] == "scalar"
    assert fastmnv2.isa() == names[-1]


@pytest.mark.parametrize("name", fastmnv2.available_isas())
def test_environment_forces_one(monkeypatch, name):
    monkeypatch.setenv("FASTMNV2_ISA", name)
    assert fastmnv2.isa() == name


def test_unknown_name_is_refused(monkeypatch, untrained_native):
    monkeypatch.setenv("FASTMNV2_ISA", "mmx")
    with pytest.raises(ValueError, match=r"FASTMNV2_ISA: expected one of scalar.*'mmx'"):
        fastmnv2.load(untrained_native)


def test_info_is_what_a_bug_report_needs(untrained_native):
    info = fastmnv2.info(untrained_native)
    assert info["version"] == fastmnv2.__version__
    assert info["isa"] in info["available_isas"]
    assert info["threads"] >= 1
    assert "-ffp-contract=off" in info["build_flags"] or info["platform"].startswith("Windows")
    assert info["weights"]["form"] == "native"
    assert len(info["weights"]["sha256"]) == 64
    assert info["weights"]["origin"] == str(untrained_native)


def test_info_without_weights_says_so_and_downloads_nothing():
    assert "FASTMNV2_WEIGHTS" in fastmnv2.info()["weights"]["error"]
