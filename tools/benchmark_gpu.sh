#!/bin/sh
# Everything that docs/benchmarks.md wants from a GPU, with one table at the end:
#   sh tools/benchmark_gpu.sh [FOLDER] [KEY VALUE ...]
# FOLDER (default: benchmark_gpu) gets a JSON file of each run. Overrides hold for all of them, for
# example MODEL.WEIGHTS; without weights they are random. A run that fails is named, and the others
# go on. It takes about ten minutes. DEVICE=cpu ROUNDS=1 SIZE="64 96" tries it out without a GPU.
set -u
cd "$(dirname "$0")/.." || exit 1
folder=${1:-benchmark_gpu}
[ $# -gt 0 ] && shift
device=${DEVICE:-cuda}
rounds=${ROUNDS:-30}
python=${PYTHON:-python}
size=${SIZE:-640 864}
config=${CONFIG:-sparseinst/sparse_inst_r50_giam}
half=float16
[ "$device" = cpu ] && half=bfloat16
mkdir -p "$folder"
failed=""

# measure NAME OPTIONS...: one run.
measure() {
    name=$1
    shift
    echo "== $name"
    # shellcheck disable=SC2086  # several words are meant
    "$python" tools/benchmark.py --config-file "$config" --size $size --device "$device" \
        --rounds "$rounds" --json "$folder/$name.json" "$@" > "$folder/$name.txt" 2>&1 \
        && cat "$folder/$name.txt" || { failed="$failed $name"; tail -n 5 "$folder/$name.txt"; }
}

rm -f "$folder"/*.json
for batch in 1 8; do
    measure "b${batch}_half_graphs_vs_plain_float32" --batch $batch --precision $half --graphs \
        --against plain --against-precision float32 "$@"
    measure "b${batch}_half_graphs_vs_plain_half" --batch $batch --precision $half --graphs \
        --against plain "$@"
    measure "b${batch}_bfloat16_graphs_vs_plain" --batch $batch --precision bfloat16 --graphs \
        --against plain "$@"
    measure "b${batch}_float32_graphs_vs_plain" --batch $batch --graphs --against plain "$@"
    measure "b${batch}_half_eager_vs_plain" --batch $batch --precision $half --against plain "$@"
    measure "b${batch}_half_compiled_vs_plain" --batch $batch --precision $half --compile \
        --against plain "$@"
    measure "b${batch}_half_compiled_graphs_vs_plain" --batch $batch --precision $half --compile \
        --graphs --against plain "$@"
done
measure train_float32 --train --batch 8 --against plain "$@"
measure train_bfloat16 --train --batch 8 --precision bfloat16 --against plain "$@"
measure train_float16 --train --batch 8 --precision float16 "$@"

echo
"$python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

from tabulate import tabulate

rows = []
for file in sorted(Path(sys.argv[1]).glob("*.json")):
    result = json.loads(file.read_text())
    for part in ("whole", "network", "training step"):
        for side, values in result["parts"].get(part, {"sides": {}})["sides"].items():
            ratio = result["parts"][part]["ratios"].get(side)
            share = values.get("share_of_matmul")
            rows.append(
                [file.stem, part, side, f"{values['ms']:.2f}", f"{values['per_second']:.1f}",
                 f"{values['peak_mb']:.0f}", "" if share is None else f"{share:.0%}",
                 f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio else ""]
            )
headers = ["run", "what", "side", "ms", "images/s", "peak MB", "of matmul", "as long (10-90 %)"]
print(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))
PYTHON
[ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }
