"""Whose answers a batch holds: a mark in its structure, which no map, replica or trace loses.

Caches of one teacher that keep the same of it, over other data or in other folders, have the same
mark: a batch of the one can be read, and learned from, as a batch of the other.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_distill.teachers.cache.manifest import Manifest, digest_of

__all__ = ["check_mark", "mark_of"]

_PREFIX = "cache "
# Fingerprints of what only decides which inputs were asked about.
_OF_VIEWS = ("augmentation", "augmentation's graph")
# Where the caches lie that this process has read of, for words that say which were mixed up.
_folders: dict[str, Path] = {}


def mark_of(folder: Path, manifest: Manifest) -> str:
    """A field's name, under which a batch of this cache holds nothing."""
    layout = manifest.layout.to_json()
    read_alike = [layout[name] for name in ("heads", "top_k", "dtype", "layers", "layer_dtype")]
    teacher = {name: d for name, d in manifest.fingerprints.items() if name not in _OF_VIEWS}
    mark = _PREFIX + digest_of(json.dumps([read_alike, teacher], sort_keys=True).encode())
    _folders[mark] = folder
    return mark


def check_mark(fields: Mapping[str, Any], mark: str, folder: Path) -> None:
    """The fields are of the cache with this mark, in this folder.

    Raises:
      ValueError: they are of another, or of none.
    """
    found = next((name for name in fields if name.startswith(_PREFIX)), None)
    if found == mark:
        return
    other = _folders.get(found or "", "an unknown place")
    raise ValueError(
        f"The data comes from another cache than the teacher: it is of the cache in {other}, and "
        f"the teacher is the cache in {folder}. They differ in what was asked or in what is kept "
        f"of the answers. Train on the teacher's own dataset(...)."
        if found
        else f"The data does not say from which cache it is, and the teacher is the cache in "
        f"{folder}. In a map over its dataset(...) keep batch.teacher whole: "
        f"batch._replace(inputs=...)."
    )
