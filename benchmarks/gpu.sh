#!/usr/bin/env bash
# Everything that only a GPU can show, in under fifteen minutes, from a checkout on a machine that may be without network.
#   OUT=DIR bash benchmarks/gpu.sh [WHEELS]      WHEELS: a folder of wheels that the machine lacks; DEVICE=cpu SHORT=1 tries it
# Each step has a time limit of its own, keeps its log in $OUT, and never stops the others; the summary stands last.
set -u
out=${OUT:-gpu_results}; wheels=${1:-}; device=${DEVICE:-cuda}; short=${SHORT:-}; begin=$SECONDS
mkdir -p "$out"; site=$(mktemp -d); demo=$(mktemp -d)/demo
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD/src"
if [ -n "$wheels" ]; then
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$wheels"/*.whl || exit 1
  export PYTHONPATH="$PYTHONPATH:$site"
fi
: > "$out/summary.txt"
step() {   # NAME LIMIT COMMAND…: runs it, keeps the log, says how it ended
  local name=$1 limit=${short:+$short} from=$SECONDS code; limit=${limit:-$2}; shift 2
  timeout -k 5 "$limit" "$@" > "$out/$name.log" 2>&1; code=$?
  echo "$name: exit $code, $((SECONDS - from)) s: $(grep -v '^ *$' "$out/$name.log" | tail -n 1 | cut -c1-150)" | tee -a "$out/summary.txt"
}
plain=(-o addopts= -o filterwarnings=default -p no:cacheprovider --import-mode=importlib -q)
step machine 25 python3 -c "
import torch, torchvision, triton, timm
print('torch', torch.__version__, 'torchvision', torchvision.__version__, 'triton', triton.__version__, 'timm', timm.__version__)
print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU')"
step kernels 100 python3 -m pytest "${plain[@]}" -n 8 tests/losses/kernels
step losses_tests 130 python3 -m pytest "${plain[@]}" -n 12 tests/losses --ignore=tests/losses/kernels
step launches 40 python3 benchmarks/launches.py --device "$device"
step pools 25 python3 benchmarks/pools.py --layers 13 --images 4 --objects 28 --rounds 10 --device "$device"
step losses 80 python3 benchmarks/losses.py --device "$device" --quick --only time memory --markdown "$out/losses.md"
step iterations 70 python3 benchmarks/iterations.py --device "$device" --images 4 --repeats 5 --markdown "$out/iterations.md"
step detectors 110 python3 benchmarks/gpu_detectors.py --device "$device" --iterations 20 --precision float32 --markdown "$out/detectors.md"
step demo 200 python3 -m rankdet demo --out "$demo"
step paa 40 python3 benchmarks/paa_assignment.py --device "$device" --markdown "$out/paa.md"
step carafe 25 python3 benchmarks/carafe.py --device "$device" --quick --markdown "$out/carafe.md"
# Few files are easier to carry: one log of all steps, one page of all tables.
for log in "$out"/*.log; do echo "=== ${log##*/}"; tail -n 120 "$log"; done > "$out/logs.txt"; rm -f "$out"/*.log
cp "$demo"/*.md "$out/demo.md" 2> /dev/null
echo "all: $((SECONDS - begin)) s"; cat "$out/summary.txt"
