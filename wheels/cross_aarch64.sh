#!/bin/sh
# Build an aarch64 wheel on a Debian machine of another processor, check it, and run it under qemu-user:
#
#     wheels/cross_aarch64.sh FOLDER
#
# FOLDER receives the wheel, Debian's arm64 Python (nothing is installed on the machine) and numpy's aarch64 wheel.
# This script needs gcc-aarch64-linux-gnu, qemu-user, and a `python` of the version that this Debian has, with `build`
# and the build requirements. If something is missing, it exits with status 3 before it builds anything.
set -eu
cd "$(dirname "$0")/.."
folder=$(mkdir -p "$1" && cd "$1" && pwd)
version=$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')

missing() { echo "cross_aarch64: $*"; exit 3; }
for tool in apt-get dpkg aarch64-linux-gnu-gcc qemu-aarch64; do
    command -v $tool >/dev/null || missing "there is no $tool"
done
apt-cache show "libpython$version-dev" >/dev/null 2>&1 || missing "this Debian has no Python $version"

# ---- a small arm64 system, from the Debian releases that this machine uses ----
mkdir -p "$folder/apt/lists/partial" "$folder/apt/cache/archives/partial" "$folder/debs" "$folder/root"
apt() {
    apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User=root \
        -o Dir::State::lists="$folder/apt/lists" -o Dir::Cache="$folder/apt/cache" "$@"
}
# Failures are ignored: some sources have no arm64 packages, and Debian's own are enough.
apt update >"$folder/apt.log" 2>&1 || true
(cd "$folder/debs" && apt download libc6 libgcc-s1 libgomp1 libstdc++6 libexpat1 zlib1g libffi8 libssl3 libbz2-1.0 \
    liblzma5 libuuid1 libcrypt1 "python$version-minimal" "libpython$version-minimal" "libpython$version-stdlib" \
    "libpython$version-dev" >>"$folder/apt.log" 2>&1) || missing "no arm64 packages: $(tail -1 "$folder/apt.log")"
for package in "$folder"/debs/*.deb; do dpkg -x "$package" "$folder/root"; done

# ---- the wheel: environment variables make Python build for another platform, as in CPython's own cross builds ----
root=$folder/root/usr
mkdir -p "$folder/config" "$folder/site"
cp "$root/lib/python$version/_sysconfigdata__aarch64-linux-gnu.py" "$folder/config"
PYTHONPATH=$folder/config _PYTHON_HOST_PLATFORM=linux-aarch64 \
    _PYTHON_SYSCONFIGDATA_NAME=_sysconfigdata__aarch64-linux-gnu \
    CC=aarch64-linux-gnu-gcc CFLAGS="-I$root/include/python$version -I$root/include" \
    python -m build --wheel --no-isolation -o "$folder" . >"$folder/build.log" 2>&1 ||
    { tail -30 "$folder/build.log"; exit 1; }
wheel=$(ls "$folder"/fastmnv2-*-linux_aarch64.whl)
python wheels/check_wheel.py --no-install --glibc 2.36 "$wheel"

# ---- run it ----
python -m pip install -q --target "$folder/site" --upgrade --only-binary :all: --python-version "$version" \
    --platform manylinux_2_28_aarch64 --platform manylinux2014_aarch64 --platform linux_aarch64 numpy "$wheel"
expected=$(python -c 'import sys; sys.path.insert(0, "wheels"); import check_wheel; print(check_wheel.DIGEST)')
program=$PWD/wheels/digest.py
for isa in scalar neon; do
    got=$(cd "$folder" && FASTMNV2_ISA=$isa PYTHONPATH=$folder/site OMP_NUM_THREADS=2 \
        qemu-aarch64 -L "$folder/root" "$root/bin/python$version" "$program")
    [ "$got" = "$expected" ] || { echo "digest on emulated $isa: $got, expected $expected"; exit 1; }
    echo "the module on emulated $isa: the digest is right"
done
