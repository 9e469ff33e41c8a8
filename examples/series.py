"""Who speaks, frame by frame: a teacher hears a recording both ways, a student cannot wait.

Shows: a bidirectional teacher, a causal student, an int8 file of one step that carries its state.
Needs: pip install -e ".[demo]"; Japanese vowels in a folder that KERAS_DISTILL_DATA names:
    pip download --no-deps aeon==1.6.0 && unzip aeon-1.6.0-*.whl "aeon/datasets/data/Jap*"
    export KERAS_DISTILL_DATA=$PWD/aeon/datasets/data
Takes: two minutes of one core; --smoke makes its own series and takes seconds.

    python examples/series.py

Nine men say /ae/, 12 numbers a frame, 7 to 29 frames. The teacher has heard the whole recording,
forwards and backwards, before it answers once; the student, a GRU, answers at every frame from what
has been by then, and learns at every frame what the teacher says of the whole. It has labels of a
tenth of the recordings, as its twin, the same network trained on these labels alone. The file holds
one step of the GRU: an app gives it a frame and the state that it gave back the last time.
"""

from _shared import arguments, draw, in_folder, some_labels, table

import keras
import numpy as np
from _reading import data_folder, series_file

import keras_distill as kd

layers = keras.layers
FRAMES, CHANNELS, SPEAKERS, EARLY, UNITS, BATCH = 29, 12, 9, 7, 24, 54
EARLIER = f"after {EARLY} frames"


def made_up(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    y, lengths = np.arange(rows) % SPEAKERS, rng.integers(EARLY, FRAMES + 1, rows)
    x = np.sin(np.arange(FRAMES)[:, None] * (1 + y[:, None, None] / 4) + np.arange(CHANNELS))
    x = np.where(np.arange(FRAMES)[:, None] < lengths[:, None, None], x, 0.0)
    return {"x": x.astype("float32"), "lengths": lengths, "y": y.astype("int32")}


def teacher_of(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((FRAMES, CHANNELS)),
            layers.Masking(),
            layers.GaussianNoise(0.2),
            layers.Bidirectional(layers.GRU(64)),
            layers.Dropout(0.3),
            layers.Dense(SPEAKERS),
        ]
    )


def network(seed: int) -> tuple[keras.Model, keras.Model]:
    """The student over all frames, to train, and one step of it with the same weights."""
    keras.utils.set_random_seed(seed)
    gru = layers.GRU(UNITS, return_sequences=True, return_state=True, name="gru")
    head = layers.Dense(SPEAKERS, name="speaker")
    frames, frame = keras.Input((FRAMES, CHANNELS)), keras.Input((1, CHANNELS), name="frame")
    state = keras.Input((UNITS,), name="state")
    whole = keras.Model(frames, head(gru(frames)[0]))
    said, after = gru(frame, initial_state=state)
    step = {"speaker": head(said), "after": layers.Identity(name="after")(after)}
    return whole, keras.Model({"frame": frame, "state": state}, step)


def compiled(model: keras.Model, steps: int) -> keras.Model:
    rate = keras.optimizers.schedules.CosineDecay(0.005, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate, clipnorm=1.0), loss)
    return model


def streamed(predict, x: np.ndarray) -> np.ndarray:
    """Frame after frame through one step, as an app does it."""
    state, answers = np.zeros((len(x), UNITS), "float32"), []
    for frame in range(FRAMES):
        found = predict({"frame": x[:, frame : frame + 1], "state": state})
        state = found["after"]
        answers.append(found["speaker"])
    return np.concatenate(answers, axis=1)


def measured(answers: np.ndarray, data: dict[str, np.ndarray]) -> dict[str, float]:
    """Accuracy in %, of what is said at the last frame and after the first seven."""
    said = np.argmax(answers, -1) == data["y"][:, None]
    last = said[np.arange(len(said)), data["lengths"] - 1]
    return {"at the end": 100 * last.mean(), EARLIER: 100 * said[:, EARLY - 1].mean()}


def run(seed: int, train: dict, test: dict, steps: int, folders: tuple) -> dict:
    (folder, scratch), x, y = folders, train["x"], train["y"]
    few = np.repeat(some_labels(y, 0.1, seed)[:, None], FRAMES, 1)
    kept = np.flatnonzero(few[:, 0] >= 0)
    # What is behind a recording's end counts for nothing.
    heard = (np.arange(FRAMES) < train["lengths"][:, None]).astype("float32")

    teacher = compiled(teacher_of(seed), steps)
    teacher.fit(x, y, batch_size=BATCH, epochs=max(1, steps * BATCH // len(x)), verbose=0)
    at_each_frame = keras.Sequential([teacher, layers.RepeatVector(FRAMES)])

    (twin, _), (student, step) = network(seed), network(seed)
    weights = heard[kept]
    compiled(twin, steps).fit(x[kept], few[kept], len(kept), steps, 0, sample_weight=weights)
    at = scratch / f"cache{seed}"
    cache = kd.TeacherCache.build(at_each_frame, (x, few, heard), at, verbose=False)
    distiller = compiled(kd.Distiller(student, cache, kd.SoftTargets(temperature=2.0)), steps)
    distiller.fit(cache.dataset(BATCH).repeat(), steps_per_epoch=steps, shuffle=False, verbose=0)

    states = keras.Model(student.inputs, student.get_layer("gru").output[0])
    before = np.pad(states.predict(x, verbose=0), ((0, 0), (1, 0), (0, 0)))[:, :-1][heard > 0]
    moments = {"frame": x[heard > 0][:, None], "state": before}
    small = kd.edge.quantize_aware(step, calibration_data=moments)
    path = folder / f"step{seed}.tflite"
    export = kd.edge.export_tflite(small, path, precision="int8", representative_data=moments)
    kd.edge.verify(export, step, moments, quantized=small)
    answers = {
        "bidirectional teacher, all labels": at_each_frame.predict(test["x"], verbose=0),
        "GRU, a tenth of the labels": twin.predict(test["x"], verbose=0),
        "the same, distilled": student.predict(test["x"], verbose=0),
        "its int8 file, step by step": streamed(kd.edge.load_tflite(path).predict, test["x"]),
    }
    return {name: measured(said, test) for name, said in answers.items()}


def main() -> None:
    args = arguments(__doc__, seeds=3)
    if args.smoke:
        train, test, steps = made_up(90), made_up(45), 8
    else:
        where = data_folder("JapaneseVowels", "series")
        train, test = (
            series_file(where / f"JapaneseVowels_{part}.ts", FRAMES) for part in ("TRAIN", "TEST")
        )
        steps = 500
    with in_folder(args.output) as folder, in_folder(None) as scratch:
        found = [run(seed, train, test, steps, (folder, scratch)) for seed in range(args.seeds)]
        print(table(found, "GRU, a tenth of the labels", better={"at the end": 1, EARLIER: 1}))
        draw(found, EARLIER, folder / "series.png", f"% right {EARLIER}")


if __name__ == "__main__":
    main()
