"""Where a recipe's data and models come from."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from keras_distill.pipeline.recipes.strict import Strict

__all__ = ["BUILDERS", "Data", "Importable", "ModelSource"]

BUILDERS = ("cnn", "small_cnn", "sound_cnn", "mlp")

Importable = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*$")
]
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]


class Data(Strict):
    """The examples: exactly one of `set`, `folder`, `csv`, `npz` and `function`.

    Args:
      set: data of ours by name.
      folder: images, a folder a class; or `train`, `validation` and `test` with such folders.
      csv: a table with a line of names; all other columns than `label` are numbers.
      npz: arrays `x` and `y`, or `x_train`, `y_train`, `x_test`, ...
      function: `module:function`, which returns such arrays as a dict; needs `--import module`.
      label: the column of a `csv` that is to be answered.
      image_size: height and width that a folder's images are brought to.
      rescale: what a folder's pixels, 0 to 255, are multiplied by.
      validation, test: the parts that are put aside where the source has no such part.
      labels: the part of the training labels that is known; of the others the students see the
        inputs alone.
      rows: only so many training examples, and half as many of the other parts.
    """

    set: Literal["digits", "fashion_mnist", "cifar10", "spoken_digits", "tones"] | None = None
    folder: str | None = None
    csv: str | None = None
    npz: str | None = None
    function: Importable | None = None
    label: str | None = None
    image_size: tuple[int, int] | None = None
    rescale: float = 1 / 255
    validation: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    test: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    labels: Fraction = 1.0
    rows: Annotated[int, Field(ge=16)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "Data":
        given = [key for key in ("set", "folder", "csv", "npz", "function") if getattr(self, key)]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"needs one of set, folder, csv, npz and function; has {found}")
        if (self.csv is None) != (self.label is None):
            raise ValueError("label is the column of a csv that is to be answered: give both")
        if (self.folder is None) != (self.image_size is None):
            raise ValueError("image_size is for a folder of images, which needs it: give both")
        return self

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.set or self.folder or self.csv or self.npz or self.function or ""


class ModelSource(Strict):
    """A model as a line of stages begins: exactly one of `build` and `file`; or neither.

    Without either it comes from a stage `shrink` or `submodel`.

    Args:
      build: a builder of ours by name, or `module:function`, which needs `--import module`. A
        function is called as `function(shape, units, **arguments)` and returns a model.
      arguments: handed to the builder.
      file: a `.keras`, a legacy `.h5` or a SavedModel's folder.
    """

    build: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    file: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "ModelSource":
        if self.build is not None and self.file is not None:
            raise ValueError("needs one of build and file; has both")
        if self.arguments and self.build is None:
            raise ValueError("arguments are for build, which is missing")
        if self.build is not None and ":" not in self.build and self.build not in BUILDERS:
            raise ValueError(
                f"build takes {', '.join(BUILDERS)} or module:function; got {self.build}"
            )
        return self
