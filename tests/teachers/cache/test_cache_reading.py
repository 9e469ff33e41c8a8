"""Records from disk are those in memory, in the same order, however they are read."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill.teachers.cache import reading, shards
from keras_distill.teachers.cache.manifest import Manifest
from keras_distill.teachers.cache.order import shuffled
from keras_distill.teachers.cache.sources import Arrays

OPTIONS = {"batch_size": 8, "shard_examples": 16, "top_k": 2, "verbose": False}


def first_four(x):
    return x[:, :4]


class Batched(keras.utils.PyDataset):
    """Batches of seven."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = parts

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return tuple(part[7 * index : 7 * index + 7] for part in self.parts)


def stream(*parts):
    return tf.data.Dataset.from_tensor_slices(parts).batch(9)


KINDS = {
    "arrays": lambda *parts: (parts, {}),
    "stored": lambda *parts: (stream(*parts), {"store_inputs": True}),
    "stream": lambda *parts: (stream(*parts), {}),
    "batches": lambda *parts: (Batched(*parts), {}),
    "views": lambda *parts: (parts, {"augment": jittered, "epochs": 2}),
}
# Bytes a call costs, bytes a call reads at most, examples a block, bytes read at a time.
WAYS = {
    "one span a shard": (2**12, 2**20, 8192, 2**24),
    "several spans a shard": (2**12, 64, 8, 2**10),
    "row by row": (-1, 2**20, 8192, 2**24),
    "row by row, in blocks": (-1, 2**20, 8, 2**8),
}


def jittered(x, seed):
    return x + tf.random.stateless_normal((5,), seed)


@pytest.fixture(params=list(WAYS))
def way(request, monkeypatch):
    """Sets what decides how records are read."""
    call, span, block, read = WAYS[request.param]
    monkeypatch.setattr(shards, "_CALL_BYTES", call)
    monkeypatch.setattr(shards, "_SPAN_BYTES", span)
    monkeypatch.setattr(reading, "_BLOCK", block)
    monkeypatch.setattr(reading, "_READ_BYTES", read)
    return request.param


def passes(dataset, number):
    """Every tensor of so many passes, the batches' lengths kept."""
    return [
        [np.array(t) for t in tf.nest.flatten(batch)] for _ in range(number) for batch in dataset
    ]


def same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for tensor, right in zip(one, other, strict=True):
            np.testing.assert_array_equal(tensor, right)


@pytest.mark.parametrize("kind", list(KINDS))
def test_from_disk_come_the_same_batches_as_out_of_memory(data, tmp_path, kind):
    given, options = KINDS[kind](*data)
    cache = kd.TeacherCache.build(first_four, given, tmp_path, **options, **OPTIONS)
    for more in ({"seed": 5}, {"shuffle": False}, {"start_step": 4, "drop_remainder": True}):
        # Made before the constants are set otherwise.
        expected = passes(cache.dataset(6, **more), 2)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (("_BLOCK", 8), ("_READ_BYTES", 2**9), ("_BLOCK_BYTES", 2**8)):
                patch.setattr(reading, name, value)
            patch.setattr(shards, "_SPAN_BYTES", 100)
            same(passes(cache.dataset(6, memory_bytes=0, **more), 2), expected)


def test_the_order_is_the_one_that_is_computed(data, tmp_path, way):
    cache = kd.TeacherCache.build(first_four, data, tmp_path, **{**OPTIONS, "top_k": None})
    dataset = cache.dataset(6, seed=3, memory_bytes=0)
    for epoch in range(2):
        order = shuffled(np.arange(70), 70, 3, epoch).numpy()
        batches = list(dataset)
        for values, right in (
            ([b[0].inputs for b in batches], data[0]),
            ([b[0].teacher["logits"] for b in batches], data[0][:, :4].astype("float16")),
            ([b[1] for b in batches], data[1]),
        ):
            np.testing.assert_array_equal(np.concatenate(values), right[order])


@pytest.fixture
def on_disk(data, tmp_path):
    """The reader of a cache's files, and all records in their order."""
    kd.TeacherCache.build(first_four, data, tmp_path, **OPTIONS)
    records = np.concatenate([np.load(path) for path in sorted(tmp_path.glob("*.npy"))])
    return shards.OnDisk(Manifest.read(tmp_path), shards.Sums(tmp_path)), records


@pytest.mark.parametrize(
    "indices",
    [[], [69], [0, 69], [69, 0, 16, 15, 16], range(70), range(69, -1, -1), range(10, 40)],
    ids=["none", "one", "ends", "twice", "all", "backwards", "middle"],
)
def test_records_come_as_they_are_asked_for(on_disk, way, indices):
    disk, records = on_disk
    indices = np.array(indices, "int64")
    found = disk.read(0, indices)
    assert found.shape == (len(indices), records.itemsize)
    assert found.tobytes() == records[indices].tobytes()


def test_neighbours_are_read_in_a_call_and_others_one_by_one(on_disk, monkeypatch):
    disk, _ = on_disk
    disk.open(0)
    sizes, real, record = [], os.pread, disk._record.itemsize

    def pread(handle, size, at):
        sizes.append(size // record)
        return real(handle, size, at)

    monkeypatch.setattr(os, "pread", pread)
    disk.read(0, np.random.default_rng(0).permutation(70))
    assert sizes == [16, 16, 16, 16, 6]
    sizes.clear()
    disk.read(0, np.arange(20, 40))
    assert sizes == [12, 8]
    # 67 records lie between three: more bytes than three calls are worth, and not.
    for worth, expected in ((22 * record, [1, 1, 1]), (23 * record, [16, 1])):
        monkeypatch.setattr(shards, "_CALL_BYTES", worth)
        sizes.clear()
        disk.read(0, np.array([69, 0, 15]))
        assert sizes == expected


def test_a_file_cut_short_since_is_told(on_disk, tmp_path, way):
    disk, _ = on_disk
    disk.open(0)
    with open(tmp_path / "epoch0000-shard000004.npy", "r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) - 5)
    disk.read(0, np.arange(64))
    with pytest.raises(ValueError, match="was cut short while it was read"):
        disk.read(0, np.arange(70))


@pytest.mark.parametrize(("room", "expected"), [(9, [8] * 8 + [6]), (1, [4] * 17 + [2])])
def test_small_examples_are_gathered_many_at_a_time(data, tmp_path, monkeypatch, room, expected):
    cache = kd.TeacherCache.build(first_four, data, tmp_path, **OPTIONS)
    taken, real = [], Arrays.take

    def take(self, indices):
        taken.append(len(indices))
        return real(self, indices)

    monkeypatch.setattr(Arrays, "take", take)
    monkeypatch.setattr(Arrays, "in_memory", False)
    # A record has 16 bytes, and an example five numbers, a label and a weight.
    monkeypatch.setattr(reading, "_BLOCK_BYTES", room * (16 + 5 * 4 + 4 + 4))
    assert [len(batch[1]) for batch in cache.dataset(4)] == [4] * 17 + [2]
    assert taken == expected


@pytest.mark.parametrize(
    ("room", "cost", "expected"),
    [(20, 1, [16] * 4 + [6]), (100, 2**10, [8] * 8 + [6]), (100, 40, [24, 24, 22])],
)
def test_from_disk_so_much_is_read_at_a_time(data, tmp_path, monkeypatch, room, cost, expected):
    cache = kd.TeacherCache.build(first_four, data, tmp_path, **OPTIONS)
    read, real = [], shards.OnDisk.read

    def counted(self, epoch, indices):
        read.append(len(indices))
        return real(self, epoch, indices)

    monkeypatch.setattr(shards.OnDisk, "read", counted)
    monkeypatch.setattr(reading, "_BLOCK", 8)
    monkeypatch.setattr(reading, "_READ_BYTES", room * 16)
    # 70 records of 16 bytes: 40 bytes for each of 28, which are three blocks.
    monkeypatch.setattr(reading, "_BYTES_A_RECORD", cost)
    assert [len(batch[1]) for batch in cache.dataset(4, memory_bytes=0)] == [4] * 17 + [2]
    assert read == expected
