"""A folder of images as data: a folder a class, sized for a model."""

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_distill.edge.interface import interface_of
from keras_distill.training.stages import UsageError

__all__ = ["load_images"]

_COLORS = {1: "grayscale", 3: "rgb", 4: "rgba"}


def load_images(
    folder: Path,
    model: keras.Model,
    *,
    limit: int | None = None,
    image_size: tuple[int, int] | None = None,
    rescale: tuple[float, float] | None = None,
    batch_size: int = 32,
    shuffle: bool = False,
) -> tuple[tf.data.Dataset, int, tuple[str, ...] | None]:
    """The images as `keras.utils.image_dataset_from_directory` reads them: float32, 0 to 255.

    Args:
      folder: holds a folder for each class, numbered in their names' order; or images alone, which
        then have no labels.
      model: whose input says the size and the colours.
      limit: so many images, drawn from all classes.
      image_size: height and width, where the model leaves them open.
      rescale: scale and offset: a pixel becomes `scale * pixel + offset`.
      batch_size: of the data set.
      shuffle: another order each epoch.

    Returns:
      Batches, how many images they hold, and the classes' names; None without labels.

    Raises:
      UsageError: a model that takes no images, or gives another number of classes.
      ValueError: there are no images.
    """
    height, width, channels = _image_shape(model, image_size)
    labelled = any(entry.is_dir() and entry.name[0] != "." for entry in folder.iterdir())
    images = keras.utils.image_dataset_from_directory(
        folder,
        labels="inferred" if labelled else None,
        label_mode="int" if labelled else None,
        color_mode=_COLORS[channels],
        batch_size=None,
        image_size=(height, width),
        # A limit takes from the head, where else the first class stands alone.
        shuffle=shuffle or limit is not None,
        seed=0,
        verbose=False,
    )
    names = tuple(images.class_names) if labelled else None
    rows = len(images.file_paths)
    rows = rows if limit is None else min(limit, rows)
    if names is not None:
        _check_classes(folder, names, model, tf.zeros((1, height, width, channels)))
    if rescale is not None:
        images = images.map(_rescaled(*rescale), num_parallel_calls=tf.data.AUTOTUNE)
    return images.take(rows).batch(batch_size).prefetch(tf.data.AUTOTUNE), rows, names


def _image_shape(model: keras.Model, image_size: tuple[int, int] | None) -> tuple[int, int, int]:
    shapes = [tuple(spec.shape[1:]) for spec in interface_of(model).specs.values()]
    if len(shapes) != 1 or len(shapes[0]) != 3 or shapes[0][2] not in _COLORS:
        raise UsageError(
            f"a folder of images is for models of one input of height, width and 1, 3 or 4 "
            f"channels; {model.name} takes {' and '.join(map(str, shapes))}. Give a .npz."
        )
    height, width, channels = shapes[0]
    if image_size is None and None in (height, width):
        raise UsageError(
            f"{model.name} takes images of any size: say which, such as --image-size 224,224."
        )
    wanted = image_size or (height, width)
    if height not in (None, wanted[0]) or width not in (None, wanted[1]):
        raise UsageError(
            f"{model.name} takes images of {height} x {width}; --image-size asks for "
            f"{wanted[0]} x {wanted[1]}. Leave it out."
        )
    return (*wanted, channels)


def _check_classes(
    folder: Path, names: tuple[str, ...], model: keras.Model, image: tf.Tensor
) -> None:
    answers = keras.tree.flatten(model(image, training=False))
    units = answers[0].shape[-1]
    if len(answers) > 1 or units == len(names) or (units == 1 and len(names) == 2):
        return
    raise UsageError(
        f"{folder} has folders for {len(names)} classes ({', '.join(names[:5])}"
        f"{', ...' if len(names) > 5 else ''}), and {model.name} knows {units}. Give each class "
        f"its folder, an empty one where there are no images: they are numbered by name."
    )


def _rescaled(scale: float, offset: float) -> Any:
    def rescaled(image: tf.Tensor, *label: tf.Tensor) -> Any:
        pixels = scale * image + offset
        return (pixels, *label) if label else pixels

    return rescaled
