# Functions for all stages. .ci/run sources this file before each stage, in the clean copy, with $work, $host and $run set.
export PIP_DISABLE_PIP_VERSION_CHECK=1 TF_CPP_MIN_LOG_LEVEL=3
export PIP_NO_COMPILE=1 # most of TensorFlow's modules are never imported
export FASTMNV2_WERROR=1 # everywhere, so that all environments and the C tests share the objects in build/
unset PYTHONPATH
missing=$work/missing

# Activate the virtual environment with this name, and create it if necessary.
environment() { # NAME
    local python=${FASTMNV2_CI_PYTHON:-python3} found
    for found in "$python" python3.13 python3.12 python3.11 python3.10; do
        if "$found" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            python=$found
            break
        fi
    done
    [ -d "$work/$1" ] || "$python" -m venv "$work/$1"
    . "$work/$1/bin/activate"
    python --version
}

# Record that THING is missing, so that tests that need it may be skipped.
lacking() { # THING REASON
    echo "$1" >>"$missing"
    echo "SKIPPED tests that need $1: $2"
}

# Install packages that are not available everywhere. If that fails, print the reason and record THING as missing.
get() { # THING REQUIREMENT …
    local thing=$1
    shift
    pip install -q "$@" >"$work/get.log" 2>&1 || { lacking "$thing" "$(tail -1 "$work/get.log")"; return 1; }
}

# Install this package with an extra, once per run in each environment. Requirements of the extra that can't be installed
# are recorded as missing; if the package itself can't be installed, the stage fails.
package_with() { # EXTRA
    [ "$(cat "$VIRTUAL_ENV/has" 2>/dev/null)" != "$run $1" ] || return 0
    if ! get "[$1]" ".[$1]"; then
        pip install -q .
        requirements_of "$1" | while read -r requirement; do
            get "${requirement%%[^a-z0-9_-]*}" "$requirement" || true
        done
    fi
    echo "$run $1" >"$VIRTUAL_ENV/has"
}

# Print the requirements of an extra of the installed package.
requirements_of() { # EXTRA
    python - "$1" <<'END'
import importlib.metadata
import sys

from pip._vendor.packaging.requirements import Requirement


def of(extra):
    for needed in map(Requirement, importlib.metadata.requires("fastmnv2")):
        if not needed.marker or not needed.marker.evaluate({"extra": extra}):
            continue
        if needed.name == "fastmnv2":
            for inner in needed.extras:
                yield from of(inner)
        else:
            yield f"{needed.name}{needed.specifier}"


print(*of(sys.argv[1]), sep="\n")
END
}

# A line for each tool: its THING in tests/skips.txt, a command or file that shows that it is installed, its packages.
debian() {
    cat <<'END'
clang|clang|clang libclang-rt-dev libomp-dev
qemu|qemu-aarch64|qemu-user
aarch64-gcc|aarch64-linux-gnu-gcc|gcc-aarch64-linux-gnu libc6-dev-arm64-cross
simde|/usr/include/simde/x86/avx512.h|libsimde-dev
musl|musl-gcc|musl-tools
wine|wine|wine
mingw|x86_64-w64-mingw32-gcc|gcc-mingw-w64-x86-64
valgrind|valgrind|valgrind
chromium|chromium|chromium chromium-driver
openssl|openssl|openssl
END
}

# Record the Debian packages that this machine lacks: the host stage could not install them, or was not allowed to.
record_missing_packages() {
    local thing probe packages
    while IFS='|' read -r thing probe packages; do
        command -v "$probe" >/dev/null || [ -e "$probe" ] || lacking "$thing" "there is no $probe ($packages)"
    done < <(debian)
    [ -d "$FASTMNV2_TEST_DATA/weights" ] || lacking data "there is no $FASTMNV2_TEST_DATA/weights"
}

# Run pytest, which fails if a test is skipped and tests/skips.txt does not excuse it.
tests() {
    touch "$missing"
    python -m pytest --durations=20 --skips "$(sort -u "$missing" | tr '\n' ' ')" "$@"
}
