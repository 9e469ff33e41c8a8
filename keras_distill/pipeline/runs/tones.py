"""Made sounds with the shape of spoken digits, so that a recipe for recordings can be tried."""

import numpy as np

from keras_distill.datasets import Recordings

__all__ = ["load_tones"]

RATE, LENGTH, CLASSES, SPEAKERS, TAKES = 8000, 8000, 10, 6, 12


def load_tones() -> Recordings:
    """Ten glides of pitch by six voices, in noise: `(720, 8000)` samples, no speech.

    >>> load_tones().samples.shape
    (720, 8000)
    """
    random = np.random.default_rng(0)
    time = np.arange(LENGTH) / RATE
    samples, labels, speakers = [], [], []
    for speaker in range(SPEAKERS):
        voice = 1.0 + 0.08 * (speaker - SPEAKERS / 2)
        for label in range(CLASSES):
            for _ in range(TAKES):
                low = voice * (220 + 110 * (label % 5)) * random.uniform(0.97, 1.03)
                glide = (1 if label < 5 else -1) * 120 * time
                loud = np.exp(-2 * ((time - random.uniform(0.3, 0.6)) / 0.2) ** 2)
                sound = loud * np.sin(2 * np.pi * (low + glide) * time)
                samples.append(0.5 * sound + random.normal(0, 0.02, LENGTH))
                labels.append(label)
                speakers.append(speaker)
    return Recordings(
        samples=np.stack(samples).astype(np.float32),
        lengths=np.full(len(labels), LENGTH, np.int32),
        labels=np.array(labels, np.int32),
        speakers=np.array(speakers, np.int32),
        rate=RATE,
        class_names=tuple(f"{way} {i}" for way in ("rising", "falling") for i in range(5)),
        speaker_names=tuple(f"voice {i}" for i in range(SPEAKERS)),
    )
