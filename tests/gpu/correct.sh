#!/usr/bin/env bash
# What only a GPU can say of the kernels: their tests, then a part of them under compute-sanitizer.
# On a machine with a GPU, in the project's root, as the other scripts here; at most 9 minutes.
# OUT is a folder for the logs, SITE one for the build.
set -uo pipefail
. tests/gpu/build.sh
nvidia-smi > "$OUT/machine.txt"
python3 -m wbcli doctor | tee -a "$OUT/machine.txt"

pytest=(python3 -m pytest -p no:cacheprovider)
parallel=()
python3 -c "import xdist" 2> /dev/null && parallel=(-n 8)
timeout 240 "${pytest[@]}" "${parallel[@]}" "$root"/tests/{balance/test_{gpu,kernels,ops,optim},training/test_graph}.py \
    2>&1 | tee "$OUT/tests.log" | tail -n 15
status=$?

export PYTORCH_NO_CUDA_MEMORY_CACHING=1 # otherwise the sanitizer does not see where a tensor ends
for tool in memcheck racecheck initcheck synccheck; do
    timeout 75 compute-sanitizer --tool "$tool" --error-exitcode 9 --kernel-regex kns=wbcli \
        "${pytest[@]}" "$root/tests/balance/test_gpu.py" -k every_kernel > "$OUT/$tool.log" 2>&1
    code=$?
    echo "$tool: exit $code, $(grep 'ERROR SUMMARY' "$OUT/$tool.log" || tail -n 1 "$OUT/$tool.log")"
    [ "$code" = 0 ] || status=$code
done
exit "$status"
