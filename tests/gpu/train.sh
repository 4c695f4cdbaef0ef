#!/usr/bin/env bash
# Seconds an epoch of the paper's training on CIFAR-100-LT, eager, as CUDA graphs and compiled: on
# made-up pixels, so look at the times only. In the project's root; about 6 minutes.
set -uo pipefail
. tests/gpu/build.sh
PYTHONPATH="$SITE:$root/tests" python3 - <<'PYTHON'
from pathlib import Path

from conftest import write_cifar100

write_cifar100(Path("data"), 500, 100)
PYTHON
for how in "" --graph --compile; do
    for precision in bf16 tf32; do
        name="$precision$how"
        # $how is no option at all where it is empty
        timeout 75 python3 -m wbcli stage1 cifar100lt --data-dir data --runs-dir runs \
            --arch resnet34 --epochs 4 --eval-every 4 --precision "$precision" $how --name "$name" \
            > "$OUT/train-$name.log" 2>&1 || echo "$name: exit $?"
        echo "$name $(tail -n 1 "runs/$name/metrics.jsonl")"
    done
done | tee "$OUT/epochs.txt"
