#!/usr/bin/env bash
# Runs the tests on the oldest TensorFlow and Keras of the range and on the newest, each in an
# environment where they were there first; fails if the installation replaced one.
#   scripts/test_range.sh [2.19 2.21 ...]      PYTHON=python3.12 chooses the interpreter
#   PYTEST_ARGS="tests/edge -x" narrows the run
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
minors=("$@")
[ ${#minors[@]} -gt 0 ] || minors=(2.19 2.21)

lowest() { sed -n "s/^ *$1>=\([0-9.]*\).*/\1/p" setup.cfg; }

for minor in "${minors[@]}"; do
  keras=
  [ "$minor" != "$(lowest tensorflow)" ] || keras=$(lowest keras)
  echo "== TensorFlow $minor, Keras ${keras:-newest}"
  "${PYTHON:-python3}" -m venv "$work/$minor"
  "$work/$minor/bin/pip" install --quiet "tensorflow==$minor.*" "keras${keras:+==$keras.*}"
  "$work/$minor/bin/pip" install --quiet -e ".[test]"
  "$work/$minor/bin/python" - "$minor" "$keras" <<'PYTHON'
import importlib.metadata
import sys

tensorflow, keras = sys.argv[1:]
for name, wanted in (("tensorflow", tensorflow), ("tf_keras", tensorflow), ("keras", keras)):
    version = importlib.metadata.version(name)
    print(name, version)
    if wanted and not version.startswith(wanted + "."):
        sys.exit(f"the installation moved {name} to {version}")
PYTHON
  # shellcheck disable=SC2086
  "$work/$minor/bin/python" -m pytest ${PYTEST_ARGS:-}
done
