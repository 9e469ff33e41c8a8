"""Training on a cache: the same as with the teacher at hand, epoch by epoch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill.teachers.cache import reading

QUIET = {"batch_size": 32, "verbose": False}


def student(seed=1, name="student"):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(4)], name=name
    )


def compiled(teacher, objectives=None, **options):
    distiller = kd.Distiller(student(), teacher, objectives, **options)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
    return distiller


def weights(distiller):
    return [np.array(w) for w in distiller.student.get_weights()]


@pytest.fixture
def cache(teacher, data, tmp_path):
    return kd.TeacherCache.build(teacher, data, tmp_path / "c", layers=["hidden"], **QUIET)


def test_a_batch_is_inputs_answers_labels_and_weights(cache, teacher, data):
    x, y, w = data
    batches = list(cache.dataset(32, shuffle=False))
    assert [len(batch[1]) for batch in batches] == [32, 32, 6]
    found, labels, sample_weight = batches[2]
    np.testing.assert_array_equal(found.inputs, x[64:])
    np.testing.assert_array_equal(labels, y[64:])
    np.testing.assert_array_equal(sample_weight, w[64:])
    expected = np.float16(teacher(x[64:]))
    np.testing.assert_allclose(found.teacher["logits"], expected, rtol=2**-10, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"memory_bytes": 0}])
def test_every_epoch_holds_every_example_in_an_order_of_its_own(cache, data, options):
    dataset = cache.dataset(32, seed=3, **options)
    epochs = [np.concatenate([b[0].inputs for b in dataset]) for _ in range(2)]
    assert not np.array_equal(*epochs)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch[:, 0]), np.sort(data[0][:, 0]))
    again = cache.dataset(32, seed=3)
    np.testing.assert_array_equal(np.concatenate([b[0].inputs for b in again]), epochs[0])


@pytest.mark.parametrize("options", [{}, {"memory_bytes": 0}], ids=["memory", "disk"])
def test_an_epoch_goes_on_at_any_step_however_it_is_cut_into_blocks(cache, monkeypatch, options):
    def batches(**more):
        found = cache.dataset(8, seed=2, **more)
        return [np.hstack([b[0].inputs, b[0].teacher["logits"]]).tolist() for b in found]

    # Seventy examples are one block of the usual size, and five of sixteen.
    whole = batches()
    assert list(map(len, whole)) == [8] * 8 + [6]
    monkeypatch.setattr(reading, "_BLOCK", 16)
    for start in (0, 1, 2, 5, 8):
        assert batches(start_step=start, **options) == whole[start:]
    assert batches(start_step=3, drop_remainder=True, **options) == whole[3:8]


@pytest.mark.parametrize("augment", [None, lambda x, seed: x], ids=["plain", "views"])
def test_no_epoch_ends_in_waiting_for_a_tuner(teacher, data, tmp_path, augment):
    cache = kd.TeacherCache.build(teacher, data, tmp_path / "c", augment=augment, **QUIET)
    assert not cache.dataset(8).options().autotune.enabled


def test_python_is_called_once_an_epoch(teacher, data, tmp_path, monkeypatch):
    real, calls = tf.numpy_function, []

    def counted(function, *rest, **options):
        def called(*arrays):
            calls.append(function.__name__)
            return function(*arrays)

        return real(called, *rest, **options)

    monkeypatch.setattr(tf, "numpy_function", counted)
    monkeypatch.setattr(reading, "_BLOCK", 8)
    cache = kd.TeacherCache.build(teacher, data, tmp_path, augment=jittered, epochs=2, **QUIET)
    dataset = cache.dataset(4)
    calls.clear()
    for _ in range(3):
        assert len(list(dataset)) == 18
    assert calls == ["_begun"] * 3
    # From disk, once a block: 9 blocks of 8 examples.
    dataset = cache.dataset(4, memory_bytes=0)
    calls.clear()
    assert len(list(dataset)) == 18
    assert len(calls) == 1 + 9


def jittered(x, seed):
    return x + tf.random.stateless_normal((5,), seed)


@pytest.mark.parametrize(
    "objectives",
    [
        [kd.SoftTargets(temperature=4.0)],
        [kd.SoftTargets(standardize=True), kd.HardTargets(), kd.LogitsMSE()],
        [kd.FeatureHint("low", "hidden")],
    ],
    ids=["soft", "logits", "hint"],
)
def test_cached_and_online_take_the_same_step(cache, teacher, data, objectives):
    online, cached = compiled(teacher, objectives), compiled(cache, objectives)
    online.fit(*data[:2], sample_weight=data[2], batch_size=70, shuffle=False, verbose=0)
    cached.fit(cache.dataset(70, shuffle=False), verbose=0)
    before = student().get_weights()
    for one, other, start in zip(weights(online), weights(cached), before, strict=True):
        np.testing.assert_allclose(other - start, one - start, rtol=5e-3, atol=2e-5)
        assert np.abs(one - start).max() > 1e-4


def test_all_of_top_k_at_float32_is_online_to_rounding(teacher, data, tmp_path):
    cache = kd.TeacherCache.build(teacher, data, tmp_path, top_k=4, dtype="float32", **QUIET)
    online, cached = compiled(teacher), compiled(cache)
    online.fit(*data[:2], sample_weight=data[2], batch_size=70, shuffle=False, verbose=0)
    cached.fit(cache.dataset(70, shuffle=False), verbose=0)
    for one, other in zip(weights(online), weights(cached), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)


@pytest.mark.parametrize("objective", [kd.SoftTargets(), kd.FeatureHint("low", "hidden")])
def test_top_k_and_int8_layers_train_with_objectives_unchanged(teacher, data, tmp_path, objective):
    cache = kd.TeacherCache.build(
        teacher, data, tmp_path, top_k=2, layers=["hidden"], layer_dtype="int8", **QUIET
    )
    history = compiled(cache, objective).fit(cache.dataset(16), epochs=8, verbose=0).history
    assert history[objective.name][-1] < history[objective.name][0]


def test_probabilities_are_known_as_such(data, tmp_path):
    # A softmax that can't be seen through: its logarithm is what is cached.
    ending = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="softmax")])
    given = kd.teachers.Model(lambda x: tf.identity(ending(x)) + 0.0, output="probabilities")
    cache = kd.TeacherCache.build(given, data, tmp_path, **QUIET)
    assert cache.prepare(None, ()).from_probabilities
    with pytest.raises(ValueError, match="gives probabilities"):
        kd.Distiller(student(), cache, kd.LogitsMSE())


def test_several_heads_are_cached_by_name(data, tmp_path):
    def model():
        x = keras.Input((5,))
        heads = {"a": keras.layers.Dense(3, name="a")(x), "b": keras.layers.Dense(2, name="b")(x)}
        return keras.Model(x, heads)

    teacher = model()
    cache = kd.TeacherCache.build(teacher, data[0], tmp_path, top_k=2, dtype="float32", **QUIET)
    distiller = kd.Distiller(model(), cache)
    distiller.compile("sgd", None)
    distiller.fit(cache.dataset(32), verbose=0)
    (batch,) = next(iter(cache.dataset(70, shuffle=False)))
    found = cache(batch)
    np.testing.assert_allclose(found.logits["b"], teacher(data[0])["b"], atol=1e-6)
    assert found.names == ("a", "b")


def test_what_does_not_come_from_the_cache_is_refused(cache, teacher, data, tmp_path):
    distiller = compiled(cache)
    with pytest.raises(ValueError, match=r"distiller\.fit\(cache\.dataset"):
        distiller.fit(*data[:2], verbose=0)
    other = kd.TeacherCache.build(teacher, data, tmp_path / "o", top_k=2, **QUIET)
    with pytest.raises(ValueError, match="another cache"):
        distiller.fit(other.dataset(8), verbose=0)
    with pytest.raises(ValueError, match=r"no output of the teacher's layer 'logits'; .* hidden"):
        kd.Distiller(student(), cache, kd.FeatureHint("low", "logits"))
    with pytest.raises(ValueError, match=r"TeacherCache\.build"):
        kd.Distiller(student(), cache, teacher_preprocess=tf.identity)
    with pytest.raises(ValueError, match="opened without its data"):
        kd.TeacherCache.open(tmp_path / "c").dataset(8)
    for options in ({"start_step": 3}, {"on_exhausted": "stop"}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            cache.dataset(**{"batch_size": 32, **options})


def test_evaluate_and_predict_take_ordinary_data_and_the_caches(cache, data):
    distiller = compiled(cache)
    plain = distiller.evaluate(*data[:2], sample_weight=data[2], verbose=0, return_dict=True)
    cached = distiller.evaluate(cache.dataset(32), verbose=0, return_dict=True)
    assert cached == pytest.approx(plain, rel=1e-5)
    np.testing.assert_allclose(
        distiller.predict(cache.dataset(32, shuffle=False), verbose=0),
        distiller.predict(data[0], verbose=0),
        atol=1e-6,
    )
    history = distiller.fit(cache.dataset(32), validation_data=data[:2], verbose=0).history
    assert {"val_loss", "val_accuracy"} <= set(history)


def test_class_weight_xla_and_several_steps_an_execution_work(teacher, data, tmp_path):
    # Without the data's weights, beside which a class weight is refused.
    cache = kd.TeacherCache.build(teacher, data[:2], tmp_path / "c", **QUIET)
    distiller = kd.Distiller(student(), cache)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("sgd", loss, jit_compile=True, steps_per_execution=2)
    history = distiller.fit(
        cache.dataset(32, drop_remainder=True), class_weight={0: 2.0}, verbose=0
    )
    assert np.isfinite(history.history["loss"]).all()


def test_it_goes_on_in_the_midst_of_an_epoch_to_the_bit(cache, data, tmp_path):
    whole = compiled(cache)
    whole.fit(cache.dataset(16), epochs=3, verbose=0)
    stopped = compiled(cache)
    stopped.fit(cache.dataset(16), epochs=1, verbose=0)
    stopped.fit(cache.dataset(16).take(2), initial_epoch=1, epochs=2, verbose=0)
    stopped.save_weights(tmp_path / "d.weights.h5")

    reopened = kd.TeacherCache.open(tmp_path / "c", data)
    resumed = compiled(reopened)
    resumed.load_weights(tmp_path / "d.weights.h5")
    epoch, done = divmod(int(resumed.optimizer.iterations), reopened.steps(16))
    assert (epoch, done) == (1, 2)
    rest = reopened.dataset(16, start_step=done)
    resumed.fit(rest, initial_epoch=epoch, epochs=epoch + 1, verbose=0)
    resumed.fit(reopened.dataset(16), initial_epoch=epoch + 1, epochs=3, verbose=0)
    for one, other in zip(weights(whole), weights(resumed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_backup_and_restore_goes_on_with_the_epochs_own_order(cache, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise InterruptedError

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)

    whole = compiled(cache)
    whole.fit(cache.dataset(16), epochs=4, verbose=0)
    stopped = compiled(cache)
    with pytest.raises(InterruptedError):
        stopped.fit(cache.dataset(16), epochs=4, callbacks=[backup(), Stop()], verbose=0)
    resumed = compiled(cache)
    resumed.fit(cache.dataset(16), epochs=4, callbacks=[backup()], verbose=0)
    for one, other in zip(weights(whole), weights(resumed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_saved_distiller_holds_no_teacher_and_trains_on(cache, teacher, tmp_path):
    distiller = compiled(cache, [kd.FeatureHint("low", "hidden")])
    distiller.fit(cache.dataset(32), verbose=0)
    distiller.save(tmp_path / "d.keras")
    loaded = kd.Distiller.load(tmp_path / "d.keras", cache)
    loaded.fit(cache.dataset(32), verbose=0)
    # A model teaches on where a cache began.
    kd.Distiller.load(tmp_path / "d.keras", teacher).fit(np.ones((4, 5)), np.zeros(4), verbose=0)
    assert distiller.teacher is cache
    assert isinstance(cache, kd.Teacher)


def test_unlabelled_data_learns_from_the_cache_alone(teacher, data, tmp_path):
    cache = kd.TeacherCache.build(teacher, data[0], tmp_path, **QUIET)
    assert len(next(iter(cache.dataset(8)))) == 1
    distiller = kd.Distiller(student(), cache)
    distiller.compile("sgd", None)
    assert distiller.fit(cache.dataset(32), epochs=2, verbose=0).history["soft_targets"]


def test_replicas_share_the_batches_of_a_cache(cache):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        distiller = compiled(cache)
    assert np.isfinite(distiller.fit(cache.dataset(32), verbose=0).history["loss"]).all()


def test_mixed_precision_teachers_answer_in_their_own_dtype(data, tmp_path):
    half = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, dtype="mixed_bfloat16")])
    cache = kd.TeacherCache.build(half, data, tmp_path, dtype="bfloat16", **QUIET)
    batch = next(iter(cache.dataset(70, shuffle=False)))[0]
    np.testing.assert_array_equal(cache(batch).logits, half(data[0]))
    assert cache(batch).logits.dtype == tf.bfloat16


def another(teacher, way):
    """What a cache is built with that differs from the fixture's in one thing."""
    return {
        "dtype": {"dtype": "bfloat16"},
        "teacher": {"teacher": keras.models.clone_model(teacher)},
        "views": {"teacher_preprocess": lambda x: 2.0 * x},
    }[way]


@pytest.mark.parametrize("way", ["dtype", "teacher", "views"])
@pytest.mark.parametrize("mapped", [False, True], ids=["bare", "mapped"])
def test_another_caches_batches_are_refused_though_their_fields_agree(
    cache, teacher, data, tmp_path, way, mapped
):
    options = {"teacher": teacher, "layers": ["hidden"], **another(teacher, way)}
    other = kd.TeacherCache.build(options.pop("teacher"), data, tmp_path / "o", **options, **QUIET)
    dataset = other.dataset(32)
    if mapped:
        dataset = dataset.map(lambda b, *y: (b._replace(inputs=b.inputs * 2), *y)).prefetch(2)
    distiller = compiled(cache)
    with pytest.raises(ValueError, match=rf"cache in {tmp_path}/o, .* in {tmp_path}/c") as refusal:
        distiller.fit(dataset, verbose=0)
    assert "another cache" in str(refusal.value)
    assert int(distiller.optimizer.iterations) == 0
    batch = next(iter(dataset))[0]
    with pytest.raises(ValueError, match="another cache"):
        cache(batch)


def test_a_cache_of_the_same_teacher_may_stand_in(cache, teacher, data, tmp_path):
    more = kd.TeacherCache.build(
        teacher, tuple(a[:20] for a in data), tmp_path / "more", layers=["hidden"], **QUIET
    )
    both = cache.dataset(32).concatenate(more.dataset(32))
    distiller = compiled(cache)
    assert np.isfinite(distiller.fit(both, verbose=0).history["loss"]).all()


def test_a_map_that_drops_the_teachers_mark_is_told_so(cache):
    dataset = cache.dataset(32).map(
        lambda b, *y: (b._replace(teacher={"logits": b.teacher["logits"]}), *y)
    )
    with pytest.raises(ValueError, match=r"keep batch\.teacher whole"):
        compiled(cache).fit(dataset, verbose=0)
