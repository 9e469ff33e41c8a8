#!/usr/bin/env bash
# Runs the tests on the oldest and the newest TensorFlow of the range, each in an environment where
# that TensorFlow was there first; fails if the installation replaced it.
#   scripts/test_range.sh [2.19 2.21 ...]      PYTHON=python3.12 chooses the interpreter
#   PYTEST_ARGS="tests/edge -x" narrows the run
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
minors=("$@")
[ ${#minors[@]} -gt 0 ] || minors=(2.19 2.21)

for minor in "${minors[@]}"; do
  echo "== TensorFlow $minor"
  "${PYTHON:-python3}" -m venv "$work/$minor"
  "$work/$minor/bin/pip" install --quiet "tensorflow==$minor.*"
  "$work/$minor/bin/pip" install --quiet -e ".[test]"
  "$work/$minor/bin/python" - "$minor" <<'PYTHON'
import importlib.metadata
import sys

for name in ("tensorflow", "tf_keras"):
    version = importlib.metadata.version(name)
    print(name, version)
    if not version.startswith(sys.argv[1] + "."):
        sys.exit(f"the installation moved {name} to {version}")
PYTHON
  # shellcheck disable=SC2086
  "$work/$minor/bin/python" -m pytest ${PYTEST_ARGS:-}
done
