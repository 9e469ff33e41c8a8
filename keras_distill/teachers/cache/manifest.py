"""What a cache is: the plan of its shards and the fingerprints of what it was made from."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_distill import _files, _json
from keras_distill.teachers.cache.layout import Layout

__all__ = ["Manifest", "Shard", "digest_of", "is_shard_name"]

NAME = "manifest.json"
_FORMAT = "keras_distill teacher cache"
# Version 1 had fingerprints that did not see constants: it is read, and not built on.
_VERSION, _READABLE = 2, (1, 2)
_BYTES = 2**22
# What can be looked through in seconds, whoever wrote the manifest.
_SHARDS = 2**18
_SHARD_NAME = re.compile(r"epoch(\d{4,9})-shard(\d{6,9})\.npy")


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
      version: of the manifest itself.

    Raises:
      ValueError: a number out of its range, or more shards than a cache may have.
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
    version: int = _VERSION

    def __post_init__(self) -> None:
        for name in ("examples", "epochs", "shard_examples", "batch_size"):
            value = getattr(self, name)
            unknown = name == "examples" and value is None
            if not (unknown or (type(value) is int and value > 0)):
                raise ValueError(f"{name} must be a whole number of 1 or more; got {value!r}.")
        if type(self.seed) is not int:
            raise ValueError(f"seed must be a whole number; got {self.seed!r}.")
        if (self.shard_count or 0) > _SHARDS:
            raise ValueError(
                f"{self.examples:,} examples, {self.shard_examples:,} a shard, and {self.epochs:,} "
                f"views of each are {self.shard_count:,} shards, and a cache has at most "
                f"{_SHARDS:,}. Build with a larger shard_examples=."
            )

    @property
    def continuable(self) -> bool:
        """Whether its fingerprints say enough for other shards to be made to these."""
        return self.version == _VERSION

    @property
    def shards_an_epoch(self) -> int | None:
        """None while the data's length is not known."""
        return None if self.examples is None else -(-self.examples // self.shard_examples)

    @property
    def shard_count(self) -> int | None:
        """Of all epochs; None while the data's length is not known."""
        return None if self.shards_an_epoch is None else self.epochs * self.shards_an_epoch

    def shard(self, epoch: int, number: int) -> Shard:
        """The epoch's shard of that number."""
        start, stop = number * self.shard_examples, None
        if self.examples is not None:
            stop = min(start + self.shard_examples, self.examples)
        return Shard(epoch * (self.shards_an_epoch or 0) + number, epoch, start, stop)

    def shards(self, epoch: int | None = None) -> Iterator[Shard]:
        """All of them or those of an epoch, in order; none while the data's length is not known."""
        for one in range(self.epochs) if epoch is None else [epoch]:
            for number in range(self.shards_an_epoch or 0):
                yield self.shard(one, number)

    def shard_named(self, name: str) -> Shard | None:
        """The shard whose file has this name; None for one that is no shard of this cache."""
        found = _SHARD_NAME.fullmatch(name)
        if found is None:
            return None
        epoch, index = int(found[1]), int(found[2])
        number = index - epoch * (self.shards_an_epoch or 0)
        known = epoch < self.epochs and 0 <= number < (self.shards_an_epoch or _SHARDS)
        shard = self.shard(epoch, number)
        return shard if known and shard.name == name else None

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
        body: dict[str, Any] = {"format": _FORMAT}
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
        if not path.exists():
            raise FileNotFoundError(f"{folder} holds no teacher cache: it has no {NAME}.")
        if not path.is_file():
            raise ValueError(f"{path} is no manifest of a teacher cache: it is no file.")
        with open(path, "rb") as file:
            content = file.read(_BYTES + 1)
        try:
            manifest = cls._parse(_json.loads(content, max_bytes=_BYTES))
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
        if content["version"] not in _READABLE:
            raise ValueError(
                f"its version is {content['version']}, and this keras_distill reads "
                f"{' and '.join(map(str, _READABLE))}"
            )
        names = {f.name for f in dataclasses.fields(cls)}
        kept = {name: value for name, value in content.items() if name in names}
        kept |= {name: _tuples(kept[name]) for name in ("inputs", "views")}
        kept |= {name: _words(kept[name]) for name in ("fingerprints", "versions")}
        return cls(**{**kept, "layout": Layout.from_json(kept["layout"])})


def is_shard_name(name: str) -> bool:
    """Whether a shard's file has such a name."""
    return _SHARD_NAME.fullmatch(name) is not None


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
    return tuple((str(path), tuple(shape), str(dtype)) for path, shape, dtype in content)


def _words(content: Any) -> dict[str, str]:
    return {str(name): str(value) for name, value in content.items()}
