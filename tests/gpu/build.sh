# Sourced by the scripts beside it, in the project's root: builds wbcli for the GPU of this machine
# into SITE, once, and goes where `import wbcli` finds that build and not the checkout.
# Needs torch, nvcc, g++, ninja and setuptools; no network. After a change of the project: rm -r SITE.
OUT=$(realpath -m "${OUT:-/tmp/out}") SITE=$(realpath -m "${SITE:-/tmp/site}")
mkdir -p "$OUT"
export PYTHONUNBUFFERED=1 PYTHONPATH="$SITE"
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ ! -e "$SITE/wbcli" ]; then
    WBCLI_CUDA=1 python3 -m pip install -q --no-build-isolation --no-deps --target "$SITE" . \
        > "$OUT/build.log" 2>&1 || { tail -n 20 "$OUT/build.log"; exit 1; }
fi
cd "$work"
