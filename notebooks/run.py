"""The notebooks with their outputs and pictures, each run from top to bottom in a fresh kernel.

    python notebooks/run.py                      # all of them, in full, into docs/notebooks
    python notebooks/run.py 02 04                # those whose names begin so
    python notebooks/run.py --smoke              # do they run? In seconds, and nothing is kept
    python notebooks/run.py --smoke --output DIR

Needs: pip install -e ".[notebooks]"; 05 needs the spoken digits that it names.
Takes: in full some 25 minutes on two cores.

A notebook that fails is named with its error, what an earlier run made of it stays, and the others
run on. The notebooks themselves, which have no outputs, are not written to.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

HERE = Path(__file__).parent
FULL = HERE.parent / "docs" / "notebooks"
SMOKE_LIMIT_S = 240
# What TensorFlow says of the machine when it starts, past Python and whatever one sets.
START_UP = re.compile(
    r"WARNING: All log messages before absl|To enable the following instructions: "
    r"|[IWE]\d{4} |\d{4}-\d\d-\d\d .*: [IWE] "
)


def notebooks(beginnings: Sequence[str] = ()) -> list[Path]:
    """Those whose names begin with one of these; all without any."""
    paths = sorted(HERE.glob("*.ipynb"))
    unknown = [one for one in beginnings if not any(p.name.startswith(one) for p in paths)]
    if unknown:
        names = ", ".join(path.stem for path in paths)
        raise SystemExit(f"Expected beginnings of {names}; got {', '.join(unknown)}.")
    return [p for p in paths if not beginnings or p.name.startswith(tuple(beginnings))]


def executed(path: Path, *, smoke: bool) -> nbformat.NotebookNode:
    """A copy with its outputs, run in a folder that is gone afterwards.

    Raises:
      CellExecutionError, CellTimeoutError, DeadKernelError: it does not run to its end.
    """
    notebook = nbformat.read(path, as_version=4)
    environment = {**os.environ, "KERAS_DISTILL_SMOKE": "1" if smoke else ""}
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=SMOKE_LIMIT_S if smoke else None,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        client.execute(env=environment)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            kept = [one for one in map(without_start_up, cell.outputs) if one is not None]
            cell.outputs = [without_folder(one, folder) for one in kept]
    return notebook


def without_folder(output: Any, folder: str) -> Any:
    """An output in which files are named as the notebook names them, not by where it ran."""
    if isinstance(output, list):
        return [without_folder(one, folder) for one in output]
    if isinstance(output, dict):
        # A picture is one word of a hundred thousand letters, and long to search.
        kept = {k: v if k == "image/png" else without_folder(v, folder) for k, v in output.items()}
        return nbformat.from_dict(kept)
    if not isinstance(output, str):
        return output
    return re.sub(r"""[^\s"']*/site-packages/""", "", output).replace(f"{folder}/", "")


def without_start_up(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """An output without TensorFlow's lines on the machine; None where nothing else is in it."""
    if output.output_type != "stream" or output.name != "stderr":
        return output
    kept = [line for line in output.text.splitlines() if not START_UP.match(line)]
    output.text = "\n".join(kept)
    return output if output.text.strip() else None


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".run.") as folder:
        beside = Path(folder) / path.name
        nbformat.write(notebook, beside)
        os.replace(beside, path)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("beginnings", nargs="*", metavar="NAME", help="or how the name begins")
    parser.add_argument(
        "--smoke", action="store_true", help="tiny sizes, no network: figures mean nothing"
    )
    parser.add_argument(
        "--output", type=Path, help="keep what was run in this folder, docs/notebooks if in full"
    )
    args = parser.parse_args(arguments)
    output = args.output or (None if args.smoke else FULL)
    failed = 0
    for path in notebooks(args.beginnings):
        begin = time.monotonic()
        try:
            notebook = executed(path, smoke=args.smoke)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            print(f"{path.stem}: FAILED\n{error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        if output is not None:
            write(notebook, output / path.name)
        print(f"{path.stem}: {time.monotonic() - begin:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
