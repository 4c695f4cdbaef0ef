#!/usr/bin/env bash
# The benchmarks of the README on a GPU, as JSON in OUT, and what the profiler says of the kernels.
# In the project's root; under 9 minutes.
set -uo pipefail
. tests/gpu/build.sh
bench() { # name of the result, arguments
    timeout 110 python3 -m wbcli bench "${@:2}" --json > "$OUT/$1.json" || echo "$1: exit $?"
}
shapes=(--shape 100x64 --shape 1000x2048 --shape 8142x2048)
bench op op "${shapes[@]}" --rounds 100
bench step step "${shapes[@]}" --rounds 100
bench op_wide op --shape 512x2304 --shape 512x4608 --shape 1000x8192 --rounds 100
bench step_wide step --shape 512x2304 --shape 512x4608 --shape 1000x8192 --rounds 100
bench step_bf16 step --dtype bfloat16 --shape 8142x2048 --shape 512x4608 --rounds 100
bench tune tune --shape 100x512 --rounds 5
bench train train --data digitslt --arch resnet34 --steps 4 --rounds 5

sections=(--section SpeedOfLight --section Occupancy --section MemoryWorkloadAnalysis)
timeout 90 ncu --clock-control none -k regex:'rows_|norms_' -c 24 "${sections[@]}" \
    python3 -m pytest -p no:cacheprovider "$root/tests/balance/test_gpu.py" -k every_kernel > "$OUT/ncu.txt" 2>&1 ||
    echo "ncu: exit $?"
