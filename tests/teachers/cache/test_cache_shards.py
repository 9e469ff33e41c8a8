"""A shard that is not what was written: found when it is first read, and named."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill.teachers.cache import shards

VICTIM = "epoch0000-shard000003.npy"
PLACES = pytest.mark.parametrize("memory_bytes", [2**29, 0], ids=["memory", "disk"])


def first_four(x):
    return x[:, :4]


@pytest.fixture
def cache(data, tmp_path):
    options = {"batch_size": 8, "shard_examples": 16, "verbose": False}
    return kd.TeacherCache.build(first_four, data[0], tmp_path / "c", **options)


def flip(path, place=-1):
    content = bytearray(path.read_bytes())
    content[place] ^= 0x40
    path.write_bytes(content)


@PLACES
def test_a_flipped_byte_is_refused_before_it_trains(cache, tmp_path, memory_bytes):
    student = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4)])
    before = student.get_weights()
    distiller = kd.Distiller(student, cache)
    distiller.compile("sgd", None)
    dataset = cache.dataset(8, memory_bytes=memory_bytes)
    flip(tmp_path / "c" / VICTIM)
    with pytest.raises(ValueError, match=rf"{VICTIM} .* is damaged: its checksum does not fit"):
        distiller.fit(dataset, verbose=0)
    for one, other in zip(before, student.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(tf.errors.OpError, match=rf"{VICTIM} .* is damaged"):
        list(dataset)
    assert list(cache.verify().damaged) == [VICTIM]
    cache.rebuild(VICTIM)
    assert len(list(dataset)) == 9


@PLACES
def test_a_sum_is_computed_again_where_the_file_is_another(
    cache, tmp_path, memory_bytes, monkeypatch
):
    real, checked = shards._unlike, []

    def unlike(folder, shard, digest):
        checked.append(shard.index)
        return real(folder, shard, digest)

    monkeypatch.setattr(shards, "_unlike", unlike)
    for _ in range(2):
        assert len(list(cache.dataset(8, memory_bytes=memory_bytes))) == 9
    assert checked == [0, 1, 2, 3, 4]
    flip(tmp_path / "c" / VICTIM)
    with pytest.raises(tf.errors.OpError, match=VICTIM):
        list(cache.dataset(8, memory_bytes=memory_bytes))


def rewritten(folder, change):
    """The victim with other records, its checksum right."""
    records = change(np.load(folder / VICTIM))
    shard = shards.Shard(3, 0, 48, None)
    shards.write_shard(folder, shard, records)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r[:9].copy(), "it holds 9 records, not 16"),
        (lambda r: np.concatenate([r, r]), "it holds 32 records, not 16"),
        (lambda r: np.zeros(16, [*r.dtype.descr, ("more", "<f4")]), "of another layout"),
    ],
    ids=["fewer", "more", "wider"],
)
def test_a_shard_of_another_size_is_refused_though_its_sum_is_right(cache, tmp_path, change, words):
    rewritten(tmp_path / "c", change)
    with pytest.raises(ValueError, match=rf"{VICTIM} .* is damaged: .*{words}"):
        cache.dataset(8)
    assert words in cache.verify().damaged[VICTIM]


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|O', 'fortran_order': False, 'shape': (16,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-16,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2**50,), }",
        "__import__('os').system('true')",
        "(" * 1000,
    ],
    ids=["pickle", "negative", "formula", "call", "deep"],
)
def test_a_forged_header_is_damage(cache, tmp_path, header):
    path = tmp_path / "c" / VICTIM
    body = path.read_bytes()[128:]
    text = header.encode().ljust(2000) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body)
    with pytest.raises(ValueError, match=rf"{VICTIM} .* is damaged"):
        cache.dataset(8)
    assert list(cache.verify().damaged) == [VICTIM]


def test_a_relative_folder_stays_where_it_was(data, tmp_path, monkeypatch):
    for name, rows in (("one", 70), ("two", 30)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        kd.TeacherCache.build(first_four, data[0][:rows], "c", verbose=False)
    monkeypatch.chdir(tmp_path / "one")
    cache = kd.TeacherCache.open("c", data[0])
    monkeypatch.chdir(tmp_path / "two")
    assert sum(len(batch.inputs) for (batch,) in cache.dataset(10)) == 70
    assert cache.info().examples == 70
    assert cache.verify().whole
    assert os.fspath(tmp_path / "one" / "c") in repr(cache)
