"""A record and its pictures in a folder, beside files that stay as they are."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_distill import _files, _json
from keras_distill._extras import install_hint

__all__ = ["asking_for_matplotlib", "check_folder", "save"]

_RECORD, _STEM = "explanation.json", "explanation"
# In each picture, by which a later save knows it; and keys that every record has.
_MARK = "keras_distill explanation"
_KEYS = {"lost", "no_similarity", "student", "teacher"}


@contextlib.contextmanager
def asking_for_matplotlib() -> Iterator[None]:
    """Around an import of what draws: the error of one who has no matplotlib says what to do."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"print(record) and record.to_json() do without, pictures need matplotlib: "
            f"{install_hint('demo')}"
        ) from error


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder that `save` could not write to, before the work.

    Raises:
      NotADirectoryError: it is a file, or lies below one.
      FileExistsError: files are there, under names that a save needs, that none has written.
      PermissionError: nothing can be written there.
    """
    target = Path(folder).absolute()
    existing = next(one for one in (target, *target.parents) if os.path.lexists(one))
    if not existing.is_dir():
        raise NotADirectoryError(f"Expected a folder to write to; {existing} is a file.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"Expected a folder to write to; {existing} may not be written to.")
    foreign = [p.name for p in _files_of(target) if os.path.lexists(p) and not _is_ours(p)]
    if foreign:
        raise FileExistsError(
            f"{folder} has files that no earlier save of an explanation has written, and they "
            f"stay: {', '.join(foreign)}. Name another folder, or move them."
        )


def save(folder: str | os.PathLike[str], record: str, figures: Mapping[str, Any]) -> tuple:
    """Write a record's JSON and its figures; pictures of an earlier save go.

    Raises:
      NotADirectoryError, FileExistsError, PermissionError: as `check_folder`; nothing is written.
    """
    check_folder(folder)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    _files.sweep(target, [_STEM])
    with _files.scratch(target, _STEM) as made:
        (made / _RECORD).write_text(record + "\n", encoding="utf-8")
        for name, figure in figures.items():
            figure.savefig(made / f"{name}.png", dpi=120, metadata={"Software": _MARK})
        names = sorted(path.name for path in made.iterdir())
        for name in names:
            _files.place(made / name, target / name)
    # A picture of an earlier record beside this one would tell of another student.
    for stale in _files_of(target):
        if stale.name not in names:
            stale.unlink(missing_ok=True)
    return tuple(target / name for name in names)


def _files_of(folder: Path) -> list[Path]:
    from keras_distill.explaining.number_pictures import NUMBER_PICTURES
    from keras_distill.explaining.pictures import PICTURES

    pictures = PICTURES.keys() | NUMBER_PICTURES
    return [folder / name for name in (_RECORD, *(f"{one}.png" for one in sorted(pictures)))]


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    if path.suffix == ".png":
        with path.open("rb") as file:
            return _MARK.encode() in file.read(1024)
    try:
        found = _json.read(path)
    except ValueError:
        return False
    return isinstance(found, dict) and found.keys() >= _KEYS
