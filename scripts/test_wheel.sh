#!/usr/bin/env bash
# Builds the wheel and tests it where a user has it: outside of the checkout, in environments that
# had their TensorFlow first. Fails if the installation moved TensorFlow or what it is made of.
#   scripts/test_wheel.sh [2.19 2.21 ...]      PYTHON=python3.12 chooses the interpreter
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
minors=("$@")
[ ${#minors[@]} -gt 0 ] || minors=(2.19 2.21)
# What reads no file of the checkout but a page; the second list is what tf_keras and TFMOT are for.
alone=(tests/test_import.py tests/test_data.py tests/functional tests/schedules tests/training
  tests/judging tests/transfer/width tests/edge/test_export.py tests/edge/test_export_quantized.py
  tests/edge/test_verification.py tests/edge/test_inspection.py)
legacy=(tests/edge/bridge tests/edge/compress tests/edge/test_legacy.py)

"${PYTHON:-python3}" -m venv "$work/build"
"$work/build/bin/pip" install --quiet build
"$work/build/bin/python" -m build --outdir "$work/dist" . >/dev/null
wheel=$(ls "$work"/dist/*.whl)
mkdir "$work/away"
cp -r tests docs "$work/away"
printf '[pytest]\naddopts = -q --strict-markers\nmarkers =\n    slow: long\n' >"$work/away/pytest.ini"

fixed() { "$1/bin/pip" freeze | grep -iE '^(tensorflow|keras|numpy|h5py|protobuf)=='; }

for minor in "${minors[@]}"; do
  env=$work/$minor
  echo "== TensorFlow $minor"
  "${PYTHON:-python3}" -m venv "$env"
  "$env/bin/pip" install --quiet "tensorflow==$minor.*"
  before=$(fixed "$env")
  "$env/bin/pip" install --quiet "${wheel}[demo]" pytest scipy
  [ "$(fixed "$env")" = "$before" ] || { echo "the wheel moved: $before"; fixed "$env"; exit 1; }
  echo "$before, $(du -sm "$env" | cut -f1) MB"
  (cd "$work/away" && "$env/bin/python" -m pytest --ignore tests/training/test_arguments.py "${alone[@]}")
  command=$("$env/bin/python" -c "
import importlib.metadata
from keras_distill._extras import legacy_hint
print(legacy_hint(importlib.metadata.version('tensorflow')))" 2>/dev/null)
  bash -c "$env/bin/$command --quiet"
  [ "$(fixed "$env")" = "$before" ] || { echo "$command moved: $before"; fixed "$env"; exit 1; }
  (cd "$work/away" && "$env/bin/python" -m pytest "${legacy[@]}")
done
