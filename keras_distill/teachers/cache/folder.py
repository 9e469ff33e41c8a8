"""A cache's folder as a whole: claiming it, looking through it, putting parts together."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_distill import _files
from keras_distill.teachers.cache import locking, manifest
from keras_distill.teachers.cache.bounds import rest_bound
from keras_distill.teachers.cache.checking import column
from keras_distill.teachers.cache.layout import Layout, field
from keras_distill.teachers.cache.manifest import Manifest, Shard, is_shard_name
from keras_distill.teachers.cache.records import CacheInfo, CacheReport
from keras_distill.teachers.cache.shards import (
    check_replaceable,
    damaged,
    is_whole,
    problem_of,
    records_in,
)

__all__ = [
    "claim",
    "finished",
    "info",
    "leading",
    "merge",
    "refuse_incomplete",
    "sweep",
    "unreadable",
    "verify",
]

_SAMPLE = 4096
_TEMPERATURES = (1.0, 4.0)
# What is being written; of which file, the first group says.
_SCRATCH = re.compile(r"\.(.+)\.[a-z0-9_]+\.partial")


def claim(folder: Path) -> Manifest | None:
    """The manifest of the cache that is there; None for a folder that is free.

    Raises:
      FileExistsError: something else is there. It is not touched.
      ValueError: the manifest is damaged.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file. Give the cache a folder of its own.")
    if (folder / manifest.NAME).exists():
        return Manifest.read(folder)
    strangers = sorted(p.name for p in folder.glob("*") if not _is_ours(p.name))
    if strangers:
        raise FileExistsError(
            f"{folder} holds something else ({', '.join(strangers[:3])}), and nothing there was "
            f"touched. Give the cache a folder of its own."
        )
    return None


def sweep(folder: Path, names: Sequence[str] | None = None) -> None:
    """Remove what killed builds left half-written: of these shards, or of all a cache's files."""
    if names is None:
        found = filter(None, map(_SCRATCH.fullmatch, os.listdir(folder)))
        stems = [one[1] for one in found if _is_a_caches(one[1])]
    else:
        stems = [stem for name in names for stem in (name, f"{name}.b2")]
    _files.sweep(folder, stems)


def finished(folder: Path, plan: Manifest) -> list[Shard]:
    """The shards that were finished, in order; they may be damaged since."""
    named = filter(None, map(plan.shard_named, os.listdir(folder)))
    found = sorted((s for s in named if is_whole(folder, s)), key=lambda s: (s.epoch, s.index))
    return leading(found) if plan.examples is None else found


def unreadable(folder: Path, plan: Manifest) -> dict[str, str]:
    """Of the finished shards those that are cut or of another layout, and what is wrong."""
    found = {}
    for shard in finished(folder, plan):
        try:
            records_in(folder, shard, plan.layout.record)
        except ValueError as error:
            found[shard.name] = str(error)
    return found


def refuse_incomplete(folder: Path, plan: Manifest) -> None:
    """Only a cache whose shards are all there, and can be read, is trained on.

    Raises:
      ValueError: one is missing or damaged; which, is named.
    """
    there = {shard.index for shard in finished(folder, plan)}
    missing = [s.name for s in plan.shards() if s.index not in there]
    if missing or plan.examples is None:
        raise ValueError(
            f"The cache in {folder} is not complete: {len(missing) or 'some'} shards are missing "
            f"({', '.join(missing[:3])}). Call build again as at first: it goes on from "
            f"there; parts built with shard=(i, n) are put together by merge."
        )
    for name, problem in unreadable(folder, plan).items():
        raise damaged(folder, name, problem)


def leading(shards: Sequence[Shard]) -> list[Shard]:
    """Those of the first epoch, from the first on, up to the first gap."""
    return [shard for i, shard in enumerate(shards) if shard.index == i and shard.epoch == 0]


def verify(directory: str | os.PathLike[str]) -> CacheReport:
    """Read every byte of a cache's files.

    Raises:
      FileNotFoundError, ValueError: there is no cache, or its manifest is damaged.
    """
    folder = Path(directory)
    plan = Manifest.read(folder)
    shards = finished(folder, plan) if plan.examples is None else plan.shards()
    whole, missing, broken = [], [], {}
    names = set(os.listdir(folder))
    for shard in shards:
        there = shard.name in names
        problem = problem_of(folder, shard, plan.layout.record) if there else "missing"
        if problem is None:
            whole.append(shard.name)
        elif problem == "missing":
            missing.append(shard.name)
        else:
            broken[shard.name] = problem
    return CacheReport(folder, plan.shard_count, tuple(whole), tuple(missing), broken)


def info(directory: str | os.PathLike[str]) -> CacheInfo:
    """What a cache holds.

    Raises:
      FileNotFoundError, ValueError: there is no cache, or its manifest is damaged.
    """
    folder = Path(directory)
    plan = Manifest.read(folder)
    layout, broken = plan.layout, unreadable(folder, plan)
    whole = [shard for shard in finished(folder, plan) if shard.name not in broken]
    names = [manifest.NAME, *(f"{s.name}{end}" for s in whole for end in ("", ".b2"))]
    size = sum((folder / name).stat().st_size for name in names)
    rows = sum(records_in(folder, shard, layout.record) for shard in whole)
    share, bounds = _rest(folder, layout, whole[:1])
    return CacheInfo(
        directory=folder,
        examples=plan.examples,
        epochs=plan.epochs,
        augmented=layout.augmented,
        outputs={head.name or "output": head.shape for head in layout.heads},
        top_k=layout.top_k,
        dtype=layout.dtype,
        layers={str(layer.name): layer.shape for layer in layout.layers},
        layer_dtype=layout.layer_dtype,
        stored_inputs=bool(layout.inputs),
        shards=plan.shard_count,
        shards_whole=len(whole),
        bytes=size,
        bytes_an_example=size / rows if rows else None,
        rest_share=share,
        rest_bound_nats=bounds,
        fingerprints=dict(plan.fingerprints),
        versions=dict(plan.versions),
    )


def merge(
    directories: Sequence[str | os.PathLike[str]], directory: str | os.PathLike[str]
) -> CacheReport:
    """One cache out of the parts that `build(..., shard=(i, n))` wrote on several machines.

    Every shard is checked before it is copied; one that is damaged in one part and whole in another
    is taken from there.

    Args:
      directories: the parts.
      directory: a folder for the whole; empty, new, or a merge that was interrupted.

    Raises:
      ValueError: the parts are of different caches (which differ in what), or a shard is in none
        of them; nothing was written.
      FileExistsError: `directory` holds something else.
    """
    parts = [Path(part) for part in directories]
    if not parts:
        raise ValueError("merge needs at least one directory; got none.")
    plans = [Manifest.read(part) for part in parts]
    for part, plan in zip(parts[1:], plans[1:], strict=True):
        _refuse_different(plans[0].differences(plan), f"{parts[0]} and {part} are parts of")
    folder, there = Path(directory), claim(Path(directory))
    if there is not None:
        _refuse_different(there.differences(plans[0]), f"{folder} and {parts[0]} are")
    chosen = _chosen(parts, plans[0])
    folder.mkdir(parents=True, exist_ok=True)
    with locking.building(folder, (0, 1)):
        sweep(folder)
        plans[0].write(folder)
        for shard, part in chosen.items():
            if part != folder and problem_of(folder, shard, plans[0].layout.record) is not None:
                check_replaceable(folder, shard)
                for name in (shard.name, f"{shard.name}.b2"):
                    _files.write(folder / name, (part / name).read_bytes())
    return verify(folder)


def _chosen(parts: list[Path], plan: Manifest) -> dict[Shard, Path]:
    chosen: dict[Shard, Path] = {}
    problems = []
    for shard in plan.shards():
        found = {part: problem_of(part, shard, plan.layout.record) for part in parts}
        whole = [part for part, problem in found.items() if problem is None]
        if whole:
            chosen[shard] = whole[0]
        else:
            worst = [f"{part}: {p}" for part, p in found.items() if p != "missing"]
            problems.append(f"{shard.name} ({'; '.join(worst) or 'in none of the parts'})")
    if problems:
        raise ValueError(
            f"{len(problems)} shards can't be had: {', '.join(problems[:5])}. Run build on the "
            f"machines whose parts they are, then merge again; nothing was written."
        )
    return chosen


def _refuse_different(differences: list[str], who: str) -> None:
    if differences:
        raise ValueError(f"{who} different caches:\n  " + "\n  ".join(differences))


def _rest(
    folder: Path, layout: Layout, shards: list[Shard]
) -> tuple[float | None, dict[float, float]]:
    """The mean share of the rest and its bounds, over the first shard's first head."""
    if layout.top_k is None or not shards:
        return None, {}
    head = layout.heads[0]
    values, rest = (
        column(folder, shards, field(kind, head.name))[:_SAMPLE] for kind in ("values", "rest")
    )
    if layout.dtype == "bfloat16":
        # Its bits are the upper half of a float32's.
        values = (values.astype("uint32") << 16).view("float32")
    values, classes = values.astype("float64"), head.shape[-1]
    top = values.max(-1, keepdims=True)
    kept = np.exp(values - top).sum(-1)
    others = np.exp(rest.astype("float64") - top[..., 0])
    bounds = {
        t: float(rest_bound(values, rest, classes, temperature=t).mean()) for t in _TEMPERATURES
    }
    return float((others / (kept + others)).mean()), bounds


def _is_ours(name: str) -> bool:
    scratch = _SCRATCH.fullmatch(name)
    return locking.is_lock(name) or bool(scratch and _is_a_caches(scratch[1]))


def _is_a_caches(name: str) -> bool:
    return name == manifest.NAME or is_shard_name(name.removesuffix(".b2"))
