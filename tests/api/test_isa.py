"""The choice of an instruction set, and its report in info()."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from build_c import isas
from processes import program

import fastmnv2


def test_scalar_is_always_there():
    names = fastmnv2.available_isas()
    assert names[0] == "scalar"
    assert fastmnv2.isa() == names[-1]


@pytest.mark.parametrize("name", fastmnv2.available_isas())
def test_the_environment_can_force_an_instruction_set(monkeypatch, name):
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
    info = fastmnv2.info()
    assert "FASTMNV2_WEIGHTS" in info["weights"]["error"]
    assert info["weights_embedded"] is False


# Instructions above x86-64's baseline, SSE2: all of AVX and later, SSE3 to SSE4.2, bit manipulation. (Not tzcnt, which
# older processors execute as bsf.)
NEWER = re.compile(
    r"\t(v[a-z0-9]+ .*%[xyz]mm|k[a-z]+[bwdq] .*%k|addsubp|hadd|hsub|lddqu|movddup|movs[hl]dup|pabs|palignr|phadd|phsub|"
    r"pmaddubsw|pmulhrsw|pshufb|psign|blend|pblend|dpp|extractps|insertps|mpsadbw|packusdw|pcmp(eq|gt)q|pcmp[ei]str|"
    r"p(ext|ins)r[bdq] |pm(ax|in)(s[bd]|u[wd])|pmov[sz]x|pmul(dq|ld)|ptest|round[ps]|crc32|popcnt|lzcnt|andn |bextr|"
    r"bls|bzhi|mulx|pdep|pext |rorx|sarx|shlx|shrx|movbe|adcx|adox|fxsave|cmpxchg16b)"
)


def functions_of_instruction_sets(module):
    """Addresses of the functions from the files of csrc/isas.def; empty if the module was stripped.

    All other code in the module must run on any processor.
    """
    files = {f"{Path(name).name}.c" for name in isas()}
    table = subprocess.run(["objdump", "-t", module], capture_output=True, text=True, check=True).stdout
    found, here = set(), False
    for line in table.splitlines():
        # Local symbols follow the name of their file.
        if re.search(r" df \*ABS\*", line):
            here = line.split()[-1] in files
        elif here and re.match(r"[0-9a-f]+ l +F ", line):
            found.add(int(line.split()[0], 16))
    return found


@pytest.mark.skipif(platform.machine() != "x86_64", reason="instructions of x86-64")
def test_no_instruction_above_the_baseline_outside_the_kernels():
    from fastmnv2.core import _engine
    from fastmnv2.image import _resize

    if not shutil.which("objdump"):
        pytest.skip("no objdump")
    for module in (_engine.__file__, _resize.__file__):
        kernels = functions_of_instruction_sets(module)
        if not kernels:
            pytest.skip("the module was stripped")
        command = ["objdump", "-d", "--no-show-raw-insn", module]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        users, function = {}, (0, "")
        for line in text.splitlines():
            if head := re.match(r"([0-9a-f]+) <(.*)>:", line):
                function = int(head[1], 16), head[2]
            elif NEWER.search(line):
                users[function] = line
        assert any(address in kernels for address, _ in users)  # the search can find such instructions
        assert not {name: line for (address, name), line in users.items() if address not in kernels}


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="an older x86-64 is emulated")
def test_an_old_processor_runs_kernels_without_avx(model, untrained_native, images, tmp_path):
    emulator = shutil.which("qemu-x86_64")
    if not emulator:
        pytest.skip("no qemu-x86_64")
    import numpy as np

    np.save(tmp_path / "images.npy", images[:1])
    paths = [untrained_native, tmp_path / "features.npy", tmp_path / "images.npy"]
    command = [emulator, "-cpu", "Nehalem", *program("embed_on_its_isa", *paths)]
    # On some hosts numpy's OpenBLAS detects a newer processor than the emulated one.
    environment = os.environ | {"OPENBLAS_CORETYPE": "Nehalem"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "sse2\n"
    assert (np.load(tmp_path / "features.npy") == model.embed(images[:1])).all()
