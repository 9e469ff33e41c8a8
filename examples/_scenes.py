"""Scenes for driving.py: photographs with garments in them, and what is to be seen of each."""

import keras
import numpy as np

import keras_distill as kd

THINGS = {"trousers": 1, "dress": 3, "sneaker": 7, "bag": 8}  # Fashion-MNIST's classes.
SIZE, FINE, COARSE = 48, 24, 12


def material(part: str, smoke: bool) -> tuple[np.ndarray, list[np.ndarray]]:
    """Photographs, and the garments of each class; of scikit-learn's alone for --smoke."""
    if smoke:
        digits = kd.data.load_digits()
        grounds = np.random.default_rng(1).uniform(size=(50, 4, 4, 3)).astype("float32")
        images, labels = digits.x_train, digits.y_train
    else:
        photographs, garments = (
            kd.data.load_cifar10(download=True),
            kd.data.load_fashion_mnist(download=True),
        )
        grounds = getattr(photographs, f"x_{part}")[:5000]
        images, labels = getattr(garments, f"x_{part}"), getattr(garments, f"y_{part}")
    return grounds, [images[labels == k][:500] for k in THINGS.values()]


def scenes(part: str, count: int, seed: int, smoke: bool) -> tuple[np.ndarray, dict, list]:
    """Images in [0, 1], what each head should say of them, and the boxes: class, x, y, w, h."""
    grounds, things = material(part, smoke)
    rng = np.random.default_rng((seed, count))
    grounds = grounds[rng.integers(len(grounds), size=count)]
    x = np.array(keras.ops.image.resize(grounds, (SIZE, SIZE)))
    y = {
        "mask": np.zeros((count, FINE, FINE), "int32"),
        "heat": np.zeros((count, COARSE, COARSE, len(THINGS)), "float32"),
        "box": np.full((count, COARSE, COARSE, 4), -1, "float32"),
    }
    centre, boxes = (np.arange(COARSE) + 0.5) * SIZE / COARSE, []
    for image, mask, heat, box in zip(x, *y.values(), strict=True):
        boxes.append([])
        for _ in range(rng.integers(1, 4)):
            k, side = rng.integers(len(THINGS)), rng.integers(14, 27)
            thing = np.array(keras.ops.image.resize(rng.choice(things[k]), (side, side)))[..., 0]
            rows, columns = (np.flatnonzero((thing > 0.15).any(axis)) for axis in (1, 0))
            thing = thing[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            (h, w), (top, left) = thing.shape, rng.integers(SIZE - np.array(thing.shape) + 1)
            inside = thing[..., None] > 0.15
            place = image[top : top + h, left : left + w]
            tint = rng.uniform(0.2, 1.0, 3) * (0.3 + 0.7 * thing[..., None])
            place[:] = np.where(inside, tint, place)
            whole = np.zeros((SIZE, SIZE), bool)
            whole[top : top + h, left : left + w] = inside[..., 0]
            mask[whole[::2, ::2]] = k + 1
            down, right = centre - (top + h / 2), centre - (left + w / 2)
            near = np.exp(-((down[:, None] / h) ** 2 + (right[None] / w) ** 2) * 12)
            near[np.abs(down).argmin(), np.abs(right).argmin()] = 1.0
            heat[..., k] = np.maximum(heat[..., k], near)
            grid = np.stack(np.meshgrid(left + w - centre, top + h - centre), -1)
            box[near > 0.3] = (np.concatenate([[w, h] - grid, grid], -1) / SIZE)[near > 0.3]
            boxes[-1].append((k, left, top, w, h))
    return x, y, boxes
