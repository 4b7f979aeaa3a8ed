#!/usr/bin/env bash
# Runs lora-kernels' correctness suite and benches on this machine's GPU; README.md beside this file
# says more.
set -euo pipefail

fail() {
    echo "error: $*" >&2
    exit 2
}

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

for argument in "$@"; do
    case "$argument" in
        --) break ;;
        -h | --help) exec "$here/bin/suite" --help ;;
    esac
done

[ "$(uname -sm)" = "Linux x86_64" ] || fail "the programs here are for Linux on x86-64, this is $(uname -sm)"
for flag in avx2 fma bmi2; do
    grep -qw "$flag" /proc/cpuinfo || fail "the programs here need a CPU with $flag (x86-64-v3: Haswell, Zen or newer)"
done

export LORA_KERNELS_DEVICE="${LORA_KERNELS_DEVICE:-real}"
if [ "$LORA_KERNELS_DEVICE" = real ]; then
    # The loader's cache has it where a driver is installed, containers add a folder to
    # LD_LIBRARY_PATH; the suite itself looks again.
    if ! command -v nvidia-smi >/dev/null; then
        echo "note: nvidia-smi is not on PATH; the driver's version may stay unknown" >&2
    elif ! nvidia-smi --list-gpus; then
        fail "nvidia-smi finds no GPU"
    fi
fi

# A pipe into `grep -q` would fail under pipefail where grep leaves before ldconfig has written all.
libraries=$(ldconfig -p 2>/dev/null || true)

# Where PyTorch is installed, cuBLAS may lie among Python's packages and nowhere else.
if [ "$LORA_KERNELS_DEVICE" = real ] && [ -z "${LORA_KERNELS_CUBLAS:-}" ] && [[ $libraries != *libcublas.so* ]] && command -v python3 >/dev/null; then
    LORA_KERNELS_CUBLAS=$(python3 - <<'PYTHON' 2>/dev/null || true
import glob, os, sys
found = [path for folder in sys.path for path in glob.glob(os.path.join(folder, "nvidia", "*", "lib", "libcublas.so.1[123]"))]
print(found[0] if found else "")
PYTHON
    )
    export LORA_KERNELS_CUBLAS
fi

date=$(date -u +%Y-%m-%dT%H:%M:%SZ)
exec "$here/bin/suite" --bundle "$here" --date "$date" "$@"
