#!/usr/bin/env bash
# Real pictures: CIFAR-10-LT, 200 epochs of ResNet-32 and its stage 2. CIFAR10 names the folder that
# holds cifar-10-batches-py; HOW is --graph, --compile or empty. In the project's root; under
# 9 minutes.
set -uo pipefail
CIFAR10=$(realpath "${CIFAR10:?the folder that holds cifar-10-batches-py}")
. tests/gpu/build.sh
data=(--data-dir "$CIFAR10" --runs-dir runs)
{
    # ${HOW} is no option at all where it is empty
    timeout 480 python3 -m wbcli stage1 cifar10lt "${data[@]}" --arch resnet32 --epochs 200 \
        --lr 0.1 --batch-size 128 --wd 5e-4 --eval-every 20 ${HOW---graph} --name first &&
        python3 -m wbcli stage2 first "${data[@]}" --name second
} > "$OUT/real.log" 2>&1
status=$?
tail -n 4 "$OUT/real.log"
[ "$status" = 0 ] && python3 -m wbcli eval first second --runs-dir runs --json > "$OUT/real.json"
