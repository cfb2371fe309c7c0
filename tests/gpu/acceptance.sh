#!/usr/bin/env bash
# Runs autofit on a real NVIDIA GPU and writes what was seen to one JSON file.
#
#   tests/gpu/acceptance.sh
#
# Needs: Linux with an NVIDIA GPU that nobody else uses, `python3` with a CUDA build of torch, and the built program.
# No network and no Rust.  Takes under 8 minutes.
#
#   AUTOFIT_BIN     the program         [target/release/autofit]
#   AUTOFIT_PYTHON  the interpreter     [python3]
#   OUT             where the file goes [benches/results]; its name is acceptance.json
#
# Exit status: 0 every check passed; 1 a check failed or there was no time for it; 2 the program or python3 is missing;
# 3 no CUDA device.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin=${AUTOFIT_BIN:-$root/target/release/autofit}
python=${AUTOFIT_PYTHON:-python3}
out=${OUT:-$root/benches/results}

command -v "$python" >/dev/null || { echo "acceptance: no $python; set AUTOFIT_PYTHON" >&2; exit 2; }
"$python" - <<'PY' || exit $?
import sys
try:
    import torch
except ImportError as e:
    print(f"acceptance: this python3 has no torch ({e})", file=sys.stderr)
    sys.exit(2)
if not torch.cuda.is_available():
    print("acceptance: no CUDA device", file=sys.stderr)
    sys.exit(3)
PY
"$bin" --version >/dev/null || {
    echo "acceptance: $bin does not run; build it with \`cargo build --release\` or set AUTOFIT_BIN" >&2
    exit 2
}
mkdir -p "$out"
# The inner deadline leaves time to write the file; the outer one is for a program that does not come back.
exec timeout --kill-after=10 475 "$python" "$root/tests/gpu/acceptance.py" \
    --bin "$bin" --examples "$root/examples" --out "$out/acceptance.json" --seconds 440
