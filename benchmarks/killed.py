"""A recipe's run, killed (SIGKILL) at random moments: does it end as one that nobody killed?

    python benchmarks/killed.py --work /tmp/killed --kills 20 [--recipe tiny] [--smoke]

Each line: the second of the kill, the stage that was under way, whether the resumed run's models,
histories and files have the uninterrupted run's bytes (what was measured, such as a latency, is no
part of that), and what it left lying about. Ends with 1 where one differs.
"""

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMAND = [sys.executable, "-c", "import keras_distill_cli; keras_distill_cli.main()", "run"]
MEASURED = ("verification.json", "judgement.json", "run.json")
REPORTS = ("report.html", "report.md", "report.json")


def run(options, folder, seconds=None):
    """A run, killed after so many seconds; returns the seconds that it took."""
    smoke = ["--smoke"] if options.smoke else []
    process = subprocess.Popen(
        [*COMMAND, options.recipe, "--output", str(folder), *smoke],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    begin = time.monotonic()
    try:
        _, words = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    else:
        if process.returncode not in (0, 1):
            raise SystemExit(words)
    return time.monotonic() - begin


def left(folder):
    """The digests of what was made."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and file.relative_to(folder).parts[0] != "logs"
        and file.name not in MEASURED + REPORTS
    }


def under_way(folder):
    """The first stage that is not finished."""
    record = folder / "run.json"
    if not record.exists():
        return "before the first"
    finished = json.loads(record.read_text())["stages"]
    kept = folder / ".unfinished"
    working = sorted(one.name for one in kept.iterdir()) if kept.exists() else []
    return next((one for one in working if one not in finished), f"after {list(finished)[-1:]}")


def main():
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    whole = options.work / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    seconds = run(options, whole)
    wanted, names = left(whole), {one.name for one in whole.iterdir()}
    print(f"uninterrupted: {seconds:.0f} s, {len(wanted)} files", flush=True)
    moments, wrong = random.Random(options.seed), 0
    for number in range(options.kills):
        folder = options.work / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        moment = moments.uniform(2.0, seconds)
        run(options, folder, moment)
        stage = under_way(folder) if folder.exists() else "before the first"
        run(options, folder)
        same = left(folder) == wanted
        stray = sorted({one.name for one in folder.iterdir()} ^ names)
        wrong += not same or bool(stray)
        print(
            f"{number + 1:2} killed at {moment:5.1f} s in {stage}: "
            f"{'same bytes' if same else 'OTHER BYTES'}, {stray or 'nothing'} left over",
            flush=True,
        )
    print(f"{options.kills - wrong} of {options.kills} as the uninterrupted run")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
