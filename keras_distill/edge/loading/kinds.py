"""What a file is that is no Keras model, in words for who gave it."""

import zipfile
from pathlib import Path

__all__ = ["not_a_model"]

_TAKEN = (
    "Expected a .keras file, as model.save('model.keras') writes it, a legacy .h5 or the folder of "
    "a Keras SavedModel"
)


def not_a_model(path: Path) -> str | None:
    """What `path` is and what is taken instead; None where it looks like a saved model."""
    if path.is_dir():
        return _folder(path)
    with path.open("rb") as file:
        head = file.read(8)
    if zipfile.is_zipfile(path):
        return _zip(path)
    if head.startswith(b"PK"):
        return f"it is a zip archive that is cut off or damaged. {_TAKEN}: save or copy it again."
    if head.startswith(b"\x89HDF"):
        return _hdf5(path)
    if head[4:] == b"TFL3":
        return (
            f"it is a .tflite file. {_TAKEN}; edge.load_tflite(path) loads a .tflite, and "
            f"keras-distill verify and benchmark take one."
        )
    return f"it is {'empty' if not head else 'no zip archive'}. {_TAKEN}."


def _folder(path: Path) -> str | None:
    if any((path / name).is_file() for name in ("config.json", "saved_model.pb")):
        return None
    return f"it is a folder. {_TAKEN}."


def _zip(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        if "config.json" not in archive.namelist():
            return f"it is a zip archive of something else (it has no config.json). {_TAKEN}."
    return None if path.suffix == ".keras" else f"its name must end in .keras: rename {path.name}."


def _hdf5(path: Path) -> str | None:
    if path.name.endswith(".weights.h5"):
        return f"it holds weights alone, as save_weights() writes them. {_TAKEN}."
    if path.suffix in (".h5", ".hdf5"):
        return None
    return f"it is an HDF5 file. {_TAKEN}; a legacy model's name must end in .h5: rename it."
