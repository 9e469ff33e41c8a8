"""What a cache is: the plan of its shards and the fingerprints of what it was made from."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ... import _files
from .layout import Layout

__all__ = ["Manifest", "Shard", "digest_of"]

NAME = "manifest.json"
_FORMAT = "keras_distill teacher cache"
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file: the answers to the examples `start` to `stop` of an epoch's views."""

    index: int
    epoch: int
    start: int
    stop: int | None

    @property
    def name(self) -> str:
        """The file's."""
        return f"epoch{self.epoch:04}-shard{self.index:06}.npy"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Everything that decides a cache's bytes.

    Attributes:
      layout: of a record.
      examples: in the data set; None until a stream of unknown length was read to its end.
      epochs: how many views of each example are cached.
      seed: of the views.
      shard_examples, batch_size: examples a shard, and a call of the teacher.
      inputs: what the data gives as x, and `views` what the teacher and the student see of it:
        path, shape and dtype each.
      fingerprints: digests of teacher, preprocessing and augmentation, by what they are of.
      versions: of the libraries that built it; for information.
    """

    layout: Layout
    examples: int | None
    epochs: int
    seed: int
    shard_examples: int
    batch_size: int
    inputs: tuple
    views: tuple
    fingerprints: Mapping[str, str]
    versions: Mapping[str, str]

    @property
    def shards_an_epoch(self) -> int | None:
        """None while the data's length is not known."""
        return None if self.examples is None else -(-self.examples // self.shard_examples)

    def shard(self, epoch: int, number: int) -> Shard:
        """The epoch's shard of that number."""
        start, stop = number * self.shard_examples, None
        if self.examples is not None:
            stop = min(start + self.shard_examples, self.examples)
        return Shard(epoch * (self.shards_an_epoch or 0) + number, epoch, start, stop)

    def shards(self) -> Iterator[Shard]:
        """All of them, epoch by epoch; none while the data's length is not known."""
        for epoch in range(self.epochs):
            for number in range(self.shards_an_epoch or 0):
                yield self.shard(epoch, number)

    def differences(self, other: "Manifest") -> list[str]:
        """What of `other` is not as here, a line each; the libraries' versions don't count."""
        mine, theirs = _flat(self), _flat(other)
        return [
            f"{name}: {mine.get(name)} in the cache, {theirs.get(name)} now"
            for name in sorted({*mine, *theirs})
            if mine.get(name) != theirs.get(name)
        ]

    def render(self) -> bytes:
        """The file's content; any other bytes are a damaged manifest."""
        body: dict[str, Any] = {"format": _FORMAT, "version": _VERSION}
        body |= {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        body["layout"] = self.layout.to_json()
        checksum = digest_of(json.dumps(body, sort_keys=True).encode())
        text = json.dumps({**body, "checksum": checksum}, indent=1, sort_keys=True)
        return f"{text}\n".encode()

    def write(self, folder: Path) -> None:
        """Put it into the folder, whole or not at all."""
        _files.write(folder / NAME, self.render())

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """The folder's manifest.

        Raises:
          FileNotFoundError: it has none.
          ValueError: it is damaged, or not this format's.
        """
        path = folder / NAME
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no teacher cache: it has no {NAME}.")
        content = path.read_bytes()
        try:
            manifest = cls._parse(json.loads(content))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no manifest of a teacher cache: {error}") from error
        if manifest.render() != content:
            raise ValueError(
                f"{path} is damaged: its checksum does not fit. Restore it from a copy; without it "
                f"the shards can't be read, and the cache has to be built anew in another folder."
            )
        return manifest

    @classmethod
    def _parse(cls, content: Any) -> "Manifest":
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        if content["version"] != _VERSION:
            raise ValueError(
                f"its version is {content['version']}, and this keras_distill reads {_VERSION}"
            )
        names = {f.name for f in dataclasses.fields(cls)}
        kept = {name: value for name, value in content.items() if name in names}
        kept |= {name: _tuples(kept[name]) for name in ("inputs", "views")}
        return cls(**{**kept, "layout": Layout.from_json(kept["layout"])})


def digest_of(*parts: Any) -> str:
    """BLAKE2b of 128 bits over the parts' bytes, as `b2sum -l 128` prints it."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _flat(manifest: Manifest) -> dict[str, Any]:
    flat: dict[str, Any] = dict(manifest.fingerprints)
    for name in ("examples", "epochs", "seed", "shard_examples", "batch_size", "inputs", "views"):
        flat[name] = getattr(manifest, name)
    for name, value in manifest.layout.to_json().items():
        flat["stored inputs" if name == "inputs" else name] = json.dumps(value)
    return flat


def _tuples(content: Any) -> tuple:
    return tuple((path, tuple(shape), dtype) for path, shape, dtype in content)
