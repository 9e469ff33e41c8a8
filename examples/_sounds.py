"""What the examples on sounds have in common: recordings of digits, and their spectrograms."""

import keras
import numpy as np

import keras_distill as kd

RATE, SECOND = 8000, 8000
# Who settings are chosen on, and who each seed tests on; the other four are learned from.
CHOOSES, TESTED = 4, (5, 0, 1, 2, 3)


def recordings(smoke: bool) -> kd.data.Recordings:
    """The Free Spoken Digit Dataset; for a trial six made-up voices that say each digit twice."""
    if not smoke:
        return kd.data.load_spoken_digits(length=SECOND)
    digits, voices = (part.ravel() for part in np.indices((10, 12)))
    time = np.arange(SECOND // 2) / RATE
    # Two tones a digit, as a telephone's; a voice is a pitch.
    tones = np.stack([700 + 90 * (digits % 4), 1200 + 140 * (digits // 4)], 1)
    pitch = 1 + 0.04 * (voices % 6)
    waves = np.sin(2 * np.pi * tones[..., None] * pitch[:, None, None] * time).mean(1)
    samples = np.pad(waves, ((0, 0), (0, SECOND - waves.shape[1]))).astype("float32")
    return kd.data.Recordings(
        samples,
        np.full(len(samples), waves.shape[1], "int32"),
        digits.astype("int32"),
        (voices % 6).astype("int32"),
        RATE,
        tuple("0123456789"),
        tuple(f"voice {number}" for number in range(6)),
    )


def heard(clip: np.ndarray, random: np.random.Generator | None = None) -> np.ndarray:
    """A second with the clip in its middle.

    With `random` a variant of its voice: 0.8 to 1.25 times as fast (and as high), anywhere in the
    second, 10 to 40 dB above noise. Who is heard later has another voice than who was learned from.
    """
    second = np.zeros(SECOND, "float32")
    if random is not None:
        speed = np.exp(random.uniform(np.log(0.8), np.log(1.25)))
        clip = np.interp(np.arange(int(len(clip) / speed)) * speed, np.arange(len(clip)), clip)
        noise = np.sqrt(np.mean(clip**2)) * 10 ** (-random.uniform(10, 40) / 20)
        second += noise * random.standard_normal(SECOND, "float32")
    clip = clip[:SECOND]
    room = SECOND - len(clip)
    begin = room // 2 if random is None else random.integers(room + 1)
    second[begin : begin + len(clip)] += clip
    return second


def spectrograms(said: kd.data.Recordings, copies: int = 0) -> np.ndarray:
    """The log-mel front end: decibels under the loudest, the last 70 as [-1, 1]: (n, 32, 32, 1).

    With `copies` so many variants of each recording, one after the other.
    """
    random = np.random.default_rng(0) if copies else None
    mel = keras.layers.MelSpectrogram(
        fft_length=512, sequence_length=400, sequence_stride=256, num_mel_bins=32,
        sampling_rate=RATE, min_freq=60, max_freq=4000,
    )  # fmt: skip
    found, rows = [], np.repeat(np.arange(len(said.labels)), copies or 1)
    for some in np.array_split(rows, len(rows) // 500 + 1):
        seconds = [heard(said.samples[row][: said.lengths[row]], random) for row in some]
        found.append(np.asarray(mel(np.stack(seconds))))
    decibels = np.moveaxis(np.concatenate(found), 1, 2)
    under = np.maximum(decibels - decibels.max((1, 2), keepdims=True), -70.0)
    return (under / 35 + 1)[..., None].astype("float32")


def ds_cnn(width: int, blocks: int, seed: int) -> keras.Model:
    """Zhang et al.'s network for keywords: one convolution, then depthwise separable ones."""
    keras.utils.set_random_seed(seed)
    sound = keras.Input((32, 32, 1))
    x = keras.layers.Conv2D(width, (8, 4), 2, padding="same", use_bias=False)(sound)
    x = normalised(x)
    for _ in range(blocks):
        x = normalised(keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x))
        x = normalised(keras.layers.Conv2D(width, 1, use_bias=False)(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(sound, keras.layers.Dense(10, name="logits")(x))


def normalised(x: keras.KerasTensor) -> keras.KerasTensor:
    # Some hundred updates: means over the last ten batches, not over a hundred.
    return keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
