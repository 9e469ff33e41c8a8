"""Every kind of data: a PyDataset, a stream, dicts, stored inputs; and data that changed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd

SMALL = {"batch_size": 8, "shard_examples": 16, "dtype": "float32", "verbose": False}


class Batched(keras.utils.PyDataset):
    """Batches of nine."""

    def __init__(self, *parts, workers=1):
        super().__init__(workers=workers)
        self.parts = parts

    def __len__(self):
        return -(-len(self.parts[0]) // 9)

    def __getitem__(self, index):
        return tuple(part[9 * index : 9 * index + 9] for part in self.parts)


def stream(*parts):
    return tf.data.Dataset.from_tensor_slices(parts).batch(9)


def of_unknown_length(*parts):
    return stream(*parts).filter(lambda *_: True)


SOURCES = [Batched, stream, of_unknown_length, lambda *parts: parts]
every_source = pytest.mark.parametrize("source", SOURCES, ids=["py", "tf", "unknown", "arrays"])


def build(teacher, data, folder, **options):
    return kd.TeacherCache.build(teacher, data, folder, **{**SMALL, **options})


def rows(dataset):
    """Inputs, answers and labels of one pass, in the order of their first input."""
    batches = list(dataset)
    x = np.concatenate([b[0].inputs for b in batches])
    logits = np.concatenate([b[0].teacher["logits"] for b in batches])
    y = np.concatenate([b[1] for b in batches])
    order = np.argsort(x[:, 0])
    return x[order], logits[order], y[order]


@every_source
def test_every_source_gives_the_same_cache_and_the_same_pairs(
    teacher, data, tmp_path, content, source
):
    cache = build(teacher, source(*data), tmp_path / "c")
    build(teacher, data, tmp_path / "arrays")
    assert content(tmp_path / "c") == content(tmp_path / "arrays")
    expected = rows(kd.TeacherCache.open(tmp_path / "c", data).dataset(70))
    reopened = kd.TeacherCache.open(tmp_path / "c", source(*data))
    for dataset in (
        cache.dataset(16),
        cache.dataset(16, shuffle=False),
        cache.dataset(16, shuffle_buffer=20, memory_bytes=0),
        reopened.dataset(7),
    ):
        for _ in range(2):
            for one, other in zip(rows(dataset), expected, strict=True):
                np.testing.assert_array_equal(one, other)
    assert reopened.verify(inputs=True).passed


@pytest.mark.parametrize("source", [Batched, stream])
def test_order_follows_from_seed_and_epoch_and_goes_on_within(teacher, data, tmp_path, source):
    cache = build(teacher, source(*data), tmp_path / "c")
    dataset, again = (cache.dataset(16, seed=1, shuffle_buffer=40) for _ in range(2))
    epochs = [np.concatenate([b[1] for b in dataset]) for _ in range(2)]
    assert not np.array_equal(*epochs)
    for epoch in epochs:
        np.testing.assert_array_equal(np.concatenate([b[1] for b in again]), epoch)
    rest = cache.dataset(16, seed=1, shuffle_buffer=40, start_step=2)
    np.testing.assert_array_equal(np.concatenate([b[1] for b in rest]), epochs[0][32:])


def test_a_pydataset_may_load_in_threads(teacher, data, tmp_path):
    cache = build(teacher, Batched(*data, workers=4), tmp_path / "c")
    one, two = (
        [b[1].numpy().tolist() for b in kd.TeacherCache.open(tmp_path / "c", given).dataset(16)]
        for given in (Batched(*data, workers=4), Batched(*data))
    )
    assert one == two
    assert cache.steps(16) == len(one)


@pytest.mark.parametrize("source", [stream, of_unknown_length, Batched])
def test_views_of_a_stream(teacher, data, tmp_path, source):
    def jitter(x, seed):
        return x + tf.random.stateless_normal((5,), seed)

    cache = build(teacher, source(*data), tmp_path / "c", augment=jitter, epochs=2)
    build(teacher, data, tmp_path / "a", augment=jitter, epochs=2)
    for name in ("epoch0000-shard000001.npy", "epoch0001-shard000009.npy"):
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    for batch in cache.dataset(16, shuffle_buffer=32):
        np.testing.assert_allclose(batch[0].teacher["logits"], teacher(batch[0].inputs), atol=1e-5)


def test_a_stream_of_unknown_length_goes_on_from_any_shard(teacher, data, tmp_path, content):
    build(teacher, data, tmp_path / "whole")
    for length in (64, 70):
        given = of_unknown_length(*(part[:length] for part in data))
        folder = tmp_path / f"c{length}"
        build(teacher, given, folder)
        expected = content(folder)
        last = sorted(folder.glob("*.npy"))[-1]
        for lost in (last, folder / "epoch0000-shard000001.npy"):
            lost.unlink()
            build(teacher, given, folder)
            assert content(folder) == expected
    assert expected == content(tmp_path / "whole")


def test_parts_of_a_stream_make_the_whole(teacher, data, tmp_path, content):
    build(teacher, data, tmp_path / "whole")
    parts = [tmp_path / "0", tmp_path / "1"]
    for i, part in enumerate(parts):
        build(teacher, of_unknown_length(*data), part, shard=(i, 2))
    assert kd.TeacherCache.merge(parts, tmp_path / "m").passed
    assert content(tmp_path / "m") == content(tmp_path / "whole")


def test_stored_inputs_shuffle_a_stream_wholly_and_need_no_data(teacher, data, tmp_path):
    build(teacher, of_unknown_length(*data), tmp_path / "c", store_inputs=True)
    build(teacher, data, tmp_path / "a")
    stored = kd.TeacherCache.open(tmp_path / "c")
    arrays = kd.TeacherCache.open(tmp_path / "a", data)
    for one, other in zip(stored.dataset(16), arrays.dataset(16), strict=True):
        for a, b in zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True):
            np.testing.assert_array_equal(a, b)


def test_dicts_and_lists_of_inputs_keep_their_structure(data, tmp_path):
    inputs = {"b": keras.Input((2,)), "a": keras.Input((3,))}
    joined = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
    model = keras.Model(inputs, keras.layers.Dense(4)(joined))
    x = {"a": data[0][:, :3], "b": data[0][:, 3:].astype("float16")}
    for name, options in {"given": {}, "stored": {"store_inputs": True}}.items():
        cache = build(model, (x, data[1]), tmp_path / name, **options)
        batch, labels = next(iter(cache.dataset(70, shuffle=False)))
        assert batch.inputs["b"].dtype == tf.float16
        for key in x:
            np.testing.assert_array_equal(batch.inputs[key], x[key])
        np.testing.assert_array_equal(labels, data[1])


def test_arrays_that_lie_on_disk_are_read_row_by_row(teacher, data, tmp_path):
    np.save(tmp_path / "x.npy", data[0])
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    cache = build(teacher, (mapped, data[1]), tmp_path / "c")
    plain = build(teacher, data[:2], tmp_path / "d")
    for one, other in zip(cache.dataset(16), plain.dataset(16), strict=True):
        np.testing.assert_array_equal(one[0].inputs, other[0].inputs)


@pytest.mark.parametrize("source", [Batched, stream])
def test_data_that_changed_is_refused_while_it_is_read(teacher, data, tmp_path, source):
    build(teacher, source(*data), tmp_path / "c")
    x = data[0].copy()
    x[66:68] = x[[67, 66]]
    cache = kd.TeacherCache.open(tmp_path / "c", stream(x, *data[1:]))
    with pytest.raises(tf.errors.OpError, match="not the one that the cache was built over"):
        list(cache.dataset(16))
    with pytest.raises(ValueError, match="example 66 is what example 67 was"):
        cache.verify(inputs=True)


@pytest.mark.parametrize("source", [Batched, of_unknown_length])
def test_data_of_another_length_is_refused(teacher, data, tmp_path, source):
    build(teacher, source(*data), tmp_path / "c")
    for rows in (60, 64, 69):
        shorter = [part[:rows] for part in data]
        with pytest.raises((ValueError, tf.errors.OpError), match=r"not the one|examples: 70"):
            list(kd.TeacherCache.open(tmp_path / "c", source(*shorter)).dataset(16))
    longer = [np.concatenate([part, part[:2]]) for part in data]
    with pytest.raises((ValueError, tf.errors.OpError), match=r"not the one|examples: 70"):
        kd.TeacherCache.open(tmp_path / "c", source(*longer)).verify(inputs=True)


def test_data_that_changes_from_pass_to_pass_is_refused(teacher, data, tmp_path):
    shuffled = tf.data.Dataset.from_tensor_slices(data).shuffle(70).batch(9)

    class Drawing(Batched):
        def __getitem__(self, index):
            x, *rest = super().__getitem__(index)
            return x + np.random.normal(size=x.shape).astype("float32"), *rest

    for given in (shuffled, Drawing(*data)):
        with pytest.raises(ValueError, match="two different answers for its first batch"):
            build(teacher, given, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def batches_of(x, batch_size=8):
    return tf.data.Dataset.from_tensor_slices(x).batch(batch_size)


@pytest.mark.parametrize(
    "given",
    [
        lambda x: batches_of(x[:40]).concatenate(batches_of(x[40:]).shuffle(9)),
        lambda x: batches_of(x[:40]).concatenate(batches_of(x[40:]).map(lambda x: x).shuffle(9, 1)),
        lambda x: tf.data.Dataset.from_tensors(x).shuffle(2).unbatch().batch(8).prefetch(1),
    ],
    ids=["late", "seeded", "whole"],
)
def test_a_shuffle_is_refused_before_anything_is_written(data, tmp_path, given):
    with pytest.raises(ValueError, match="is shuffled anew at each pass"):
        kd.TeacherCache.build(lambda x: x, given(data[0]), tmp_path / "c", verbose=False)
    assert not (tmp_path / "c").exists()


def test_a_shuffle_that_stays_as_it_fell_is_taken(data, tmp_path):
    fixed = batches_of(data[0]).shuffle(9, seed=1, reshuffle_each_iteration=False)
    cache = kd.TeacherCache.build(lambda x: x, fixed, tmp_path / "c", verbose=False)
    kept = batches_of(data[0]).shuffle(9).cache()
    list(kept)
    kd.TeacherCache.build(lambda x: x, kept, tmp_path / "d", verbose=False)
    assert cache.verify(inputs=True).passed


def test_stored_labels_are_those_of_the_data(data, tmp_path):
    x, y, w = data
    options = {"batch_size": 8, "shard_examples": 16, "store_inputs": True, "verbose": False}
    kd.TeacherCache.build(lambda x: x, data, tmp_path / "c", **options)
    (tmp_path / "c" / "epoch0000-shard000004.npy").unlink()
    for other in ((x, np.where(np.arange(70) == 9, 99, y), w), (x, y, w + (np.arange(70) == 9))):
        for use in (
            lambda given: kd.TeacherCache.open(tmp_path / "c", given),
            lambda given: kd.TeacherCache.build(lambda x: x, given, tmp_path / "c", **options),
        ):
            with pytest.raises(ValueError, match=r"labels and sample weights .* of\s+example 9"):
                use(tuple(part.astype(like.dtype) for part, like in zip(other, data, strict=True)))
    assert not (tmp_path / "c" / "epoch0000-shard000004.npy").exists()


def test_labels_that_are_not_stored_are_the_datas_own(data, tmp_path):
    x, y, _ = data
    kd.TeacherCache.build(lambda x: x, (x, y), tmp_path / "c", verbose=False)
    cache = kd.TeacherCache.open(tmp_path / "c", (x, 3 - y))
    np.testing.assert_array_equal(next(iter(cache.dataset(70, shuffle=False)))[1], 3 - y)


def test_weights_without_labels_are_refused(teacher, data, tmp_path):
    with pytest.raises(ValueError, match="weights without labels"):
        build(teacher, (data[0], None, data[2]), tmp_path / "c")
    assert not (tmp_path / "c").exists()
