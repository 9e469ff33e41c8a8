import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill.edge.compress.clustering import Clusters, cluster, first_centroids
from keras_distill.edge.compress.layer import Compressed
from keras_distill.edge.compress.pruning import prune
from keras_distill.edge.compress.sparsity import sparsity_report
from keras_distill.edge.compress.strip import strip


def seen(model):
    """Every clustered weight as its layer sees it."""
    return {
        (layer.name, path): value.numpy()
        for layer in model._flatten_layers()
        if isinstance(layer, Compressed)
        for path, value in layer.treated_weights().items()
    }


def distinct(model):
    return [len(np.unique(value)) for value in seen(model).values()]


def weight(size=500):
    return tf.constant(np.random.default_rng(0).normal(size=(size,)), tf.float32)


@pytest.fixture
def dense():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(24, activation="relu", name="hidden"),
            keras.layers.Dense(10, name="logits"),
        ]
    )


@pytest.mark.parametrize("zero", [False, True])
def test_first_centroids_are_tfmots(tfmot, zero):
    from tensorflow_model_optimization.python.core.clustering.keras import clustering_centroids

    value = weight()
    if zero:
        value = tf.where(tf.abs(value) > 0.7, value, 0.0)
    theirs = clustering_centroids.KmeansPlusPlusCentroidsInitialisation(
        value, 8, preserve_sparsity=zero
    ).get_cluster_centroids()
    ours = first_centroids(value, 8, zero=zero).numpy()
    np.testing.assert_array_equal(np.sort([*ours, 0.0] if zero else ours), np.sort(theirs))


@pytest.mark.parametrize("sparse", [False, True])
def test_ten_updates_are_tfmots(dense, digits, tfmot, tf_keras, compiled, sparse):
    source = strip(prune(dense, 0.5)) if sparse else dense
    ours = compiled(cluster(source, 8), keras.optimizers.SGD(0.01))
    twin = tf_keras.Sequential(
        [
            tf_keras.Input((64,)),
            tf_keras.layers.Dense(24, activation="relu"),
            tf_keras.layers.Dense(10),
        ]
    )
    twin.set_weights(source.get_weights())
    clustering = tfmot.clustering.keras
    kind = clustering.CentroidInitialization.KMEANS_PLUS_PLUS
    theirs = clustering.cluster_weights(twin, 8, kind, preserve_sparsity=sparse)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    theirs.compile(tf_keras.optimizers.SGD(0.01), loss)
    x, y = digits.x_train[:640].reshape(-1, 64), digits.y_train[:640]
    options = {"batch_size": 64, "shuffle": False, "verbose": 0}
    our_loss = ours.fit(x, y, **options).history["loss"]
    np.testing.assert_allclose(our_loss, theirs.fit(x, y, **options).history["loss"], rtol=1e-5)
    theirs(x[:1])  # TFMOT looks the numbers up at the next call only.
    for value, layer in zip(seen(ours).values(), theirs.layers, strict=True):
        np.testing.assert_allclose(value, layer.layer.kernel.numpy(), atol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_never_more_numbers_than_asked_for(small, digits, compiled, tmp_path, jit_compile):
    clustered = compiled(cluster(small, 8), jit_compile=jit_compile)
    before = seen(clustered)
    assert max(distinct(clustered)) == 8
    moved = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            moved.append(max(distinct(clustered)))

    clustered.fit(digits.x_train[:192], digits.y_train[:192], callbacks=[Watch()], verbose=0)
    assert max(moved) <= 8
    assert len(moved) == 6
    for key, value in seen(clustered).items():
        assert set(np.unique(value)) != set(np.unique(before[key]))
    plain = strip(clustered)
    kernels = [plain.get_layer(name).kernel.numpy() for name in ("first", "middle", "logits")]
    assert [len(np.unique(kernel)) for kernel in kernels] == distinct(clustered)
    # The two graphs may round their sums differently.
    answer = clustered.predict(digits.x_test[:50], verbose=0)
    np.testing.assert_allclose(plain.predict(digits.x_test[:50], verbose=0), answer, atol=1e-5)


def test_the_files_kernels_hold_as_few_numbers(dense, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    export = kd.edge.export_tflite(cluster(dense, 8), tmp_path / "a.tflite")
    interpreter = Interpreter(str(export.path))
    interpreter.allocate_tensors()
    shapes = {(24, 64): 0, (10, 24): 0}
    for detail in interpreter.get_tensor_details():
        if tuple(detail["shape"]) in shapes:
            tensor = interpreter.get_tensor(detail["index"])
            shapes[tuple(detail["shape"])] = len(np.unique(tensor))
    assert set(shapes.values()) == {8}


@pytest.mark.parametrize("stripped", [False, True])
def test_zeros_of_a_pruned_model_stay(small, digits, compiled, stripped):
    pruned = prune(small, 0.75)
    source = strip(pruned) if stripped else pruned
    clustered = compiled(cluster(source, 8), keras.optimizers.Adam(0.05))
    kept = {key: value != 0 for key, value in seen(clustered).items()}
    assert sparsity_report(clustered).sparsity >= 0.75
    clustered.fit(digits.x_train[:192], digits.y_train[:192], verbose=0)
    for key, value in seen(clustered).items():
        assert not value[~kept[key]].any()
        assert value[kept[key]].any()
    assert max(distinct(clustered)) <= 8


def test_a_schedule_under_way_goes_on_under_clusters(small, digits, compiled):
    pruned = compiled(prune(small, 0.8, end_step=12))
    pruned.fit(digits.x_train[:96], digits.y_train[:96], batch_size=16, verbose=0)
    clustered = cluster(pruned, 16)
    report = {row.layer: row.promised for row in sparsity_report(clustered).rows}
    assert report["middle"] == pytest.approx(0.7)  # 0.8 * (1 - (6 / 12)^3)
    optimizer = keras.optimizers.Adam()
    optimizer.build(compiled(clustered, optimizer).trainable_variables)
    optimizer._iterations.assign(6)
    clustered.fit(digits.x_train[:96], digits.y_train[:96], batch_size=16, verbose=0)
    assert sparsity_report(clustered).sparsity >= 0.8 - 1e-3
    assert max(distinct(clustered)) <= 16


def test_a_model_without_zeros_gets_none(dense):
    assert all((value != 0).all() for value in seen(cluster(dense, 8)).values())


def test_zeros_are_free_to_go_on_request(dense):
    values = seen(cluster(prune(dense, 0.5), 4, preserve_sparsity=False))
    assert max(len(np.unique(value)) for value in values.values()) == 4


def test_fewer_numbers_than_clusters():
    value = tf.constant([1.0, -2.0, 1.0])
    assert set(first_centroids(value, 4, zero=False).numpy()) == {-2.0, 1.0}
    # One negative, two positive: round(3 * 1 / 3) centroids below.
    assert first_centroids(value, 4, zero=True).numpy().tolist() == [-2.0, 1.0, 1.0]
    assert first_centroids(tf.zeros(3), 4, zero=True).numpy().tolist() == [0.0, 0.0, 0.0]


@pytest.mark.slow
def test_loaded_in_a_fresh_process_it_answers_the_same_and_trains_on(
    small, digits, compiled, tmp_path, in_a_fresh_process
):
    clustered = compiled(cluster(prune(small, 0.5), 8))
    x, y = digits.x_train[:32], digits.y_train[:32]
    clustered.fit(x, y, verbose=0)
    clustered.save(tmp_path / "c.keras")
    np.savez(tmp_path / "data.npz", x=x, y=y, answer=clustered.predict(x, verbose=0))
    loss = clustered.train_on_batch(x, y)
    printed = in_a_fresh_process(f"""
        import keras, keras_distill, numpy as np
        import keras_distill.edge.compress.clustering
        data = np.load({str(tmp_path / "data.npz")!r})
        model = keras.saving.load_model({str(tmp_path / "c.keras")!r})
        assert (model.predict(data["x"], verbose=0) == data["answer"]).all()
        print(float(model.train_on_batch(data["x"], data["y"])))
    """)
    assert float(printed) == pytest.approx(float(loss), rel=1e-6)


def test_in_a_distiller(small, digits, compiled):
    keras.utils.set_random_seed(7)
    teacher = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    clustered = cluster(small, 8)
    before = [v.numpy() for v in clustered.trainable_variables]
    compiled(kd.Distiller(clustered, teacher)).fit(
        digits.x_train[:64], digits.y_train[:64], verbose=0
    )
    pairs = zip(before, clustered.trainable_variables, strict=True)
    moved = [np.any(v.numpy() != b) for b, v in pairs]
    assert all(moved)
    assert max(distinct(clustered)) <= 8


def test_clusters_come_back_from_their_config():
    treatment = Clusters(8, True)
    assert Clusters.from_config(treatment.get_config()).get_config() == treatment.get_config()


@pytest.mark.parametrize("clusters", [1, 0, -3, 8.0, "8", True, None])
def test_no_number_of_clusters(dense, clusters):
    with pytest.raises(ValueError, match="Expected clusters as a whole number"):
        cluster(dense, clusters)


def test_what_is_refused(dense):
    with pytest.raises(ValueError, match="clustered already"):
        cluster(cluster(dense))
    with pytest.raises(ValueError, match=r"quantised: .* Cluster first"):
        cluster(kd.edge.quantize_aware(dense))
    with pytest.raises(ValueError, match="no layer answers to it"):
        cluster(dense, skip="nobody")
    with pytest.raises(ValueError, match="nothing to cluster"):
        cluster(dense, skip=keras.layers.Dense)
