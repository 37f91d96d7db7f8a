#!/usr/bin/env bash
# All that needs a GPU, in one go: the tests marked gpu, the throughput table, what evaluation costs a run, and a suite.
# benchmarks/gpu.sh [FOLDER FOR RESULTS]
# PYTHON names an interpreter with offline-rl-suite and pytest installed; SUITE, a file like benchmarks/preferences.yaml, is
# run if it is given, with DATA_DIR, the folder of its files.
# DEVICE=cpu tries it all on a CPU; ALGORITHMS, ROWS (of synthetic data) and STEPS (of a run) make it smaller.
# Results are written as they come, so that whatever ends it early takes only what is not done yet.
set -uo pipefail
cd "$(dirname "$0")/.."
out="${1:-results/throughput}"
python="${PYTHON:-python3}"
mkdir -p "$out"
"$python" -m pytest -q -p no:cacheprovider -m gpu tests 2>&1 | tail -n 25
"$python" -m benchmarks.throughput --device "${DEVICE:-cuda}" --out "$out/gpu.json" --windows 3 --seconds 0.4 ${ALGORITHMS:+--algorithms $ALGORITHMS} ${ROWS:+--rows "$ROWS"}
"$python" -m benchmarks.evaluation_share --out "$out/evaluation.json" ${DEVICE:+--device "$DEVICE"} ${STEPS:+--steps "$STEPS"}
if [ -n "${SUITE:-}" ]; then
  "$python" -m offline_rl benchmark "$SUITE" --data_dir "${DATA_DIR:-.}" --results "$out/$(basename "$SUITE" .yaml)" --workers 4
fi
