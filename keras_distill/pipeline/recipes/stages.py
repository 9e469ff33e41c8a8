"""The stages of a recipe: each takes a line of models one step on."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from keras_distill.pipeline.recipes.named import Callback, Objective, Scheduled
from keras_distill.pipeline.recipes.strict import Name, Strict

__all__ = ["AnyStage", "Learning", "StageOf", "Training"]

Count = Annotated[int, Field(ge=1)]
Part = Annotated[float, Field(ge=0.0, lt=1.0)]


class StageOf(Strict):
    """What every stage has.

    Args:
      stage: its kind.
      name: a folder of the run is called so; by default the kind and the model.
      model: the line that it works on.
    """

    stage: str
    name: Name | None = None
    model: Name = "student"

    @property
    def title(self) -> str:
        """The stage's name, given or made."""
        return self.name or f"{self.stage}-{self.goes_to}"

    @property
    def goes_to(self) -> str:
        """The line that holds what it makes."""
        return self.model

    @property
    def reads(self) -> tuple[str, ...]:
        """The lines whose models it reads."""
        return (self.model,)

    @property
    def begins(self) -> bool:
        """Whether the line that it makes need not be there before."""
        return False


class Augment(Strict):
    """Another view of each example at each epoch; teacher and student see the same.

    Args:
      shift: pixels up or down and to the left or right, at most; zeros come in.
      flip: left and right are exchanged in half of the images.
      noise: the standard deviation of what is added.
      mixup: the parameter of the Beta distribution that says how two examples mix; their labels are
        left out, so that the teacher alone says what a mixture is.
    """

    shift: Annotated[int, Field(ge=0)] = 0
    flip: bool = False
    noise: Annotated[float, Field(ge=0.0)] = 0.0
    mixup: Annotated[float, Field(ge=0.0)] = 0.0


class Training(StageOf):
    """What every training has.

    Args:
      into: the line that the trained model begins, in place of going on with its own: so one start
        is trained in two ways.
      epochs: passes; each is as many batches as all training examples make, so that a training on
        few labels has the same budget as one on all inputs.
      learning_rate: the first, of a cosine to zero; or a constant with `decay: none`.
      optimizer: with `optimizer_arguments` beside it.
      labels: "known" are those that `data.labels` leaves, "all" is for a teacher.
      loss: a loss of Keras by its name; by default a cross-entropy for classes and the squared
        error for numbers.
      augment: see there.
      callbacks: see `Callback`. Their own state is not kept when a run goes on.
    """

    into: Name | None = None
    epochs: Count = 10
    batch_size: Count = 64
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    decay: Literal["cosine", "none"] = "cosine"
    optimizer: Literal["adam", "adamw", "nadam", "rmsprop", "sgd"] = "adam"
    optimizer_arguments: dict[str, Any] = Field(default_factory=dict)
    labels: Literal["known", "all"] = "known"
    loss: str | None = None
    augment: Augment = Augment()
    callbacks: tuple[Callback, ...] = ()

    @property
    def goes_to(self) -> str:
        """See `StageOf`."""
        return self.into or self.model


class Learning(Training):
    """A training under a teacher.

    Args:
      teacher: a line, or several that teach together as an ensemble; null for labels alone.
      objectives: what is learned of it.
      label_weight: the labels' part of the loss, the rest is the teacher's; a number or a schedule.
        0 leaves the labels out.
      cache: the name of a stage `cache`, whose answers are read in place of asking the teacher.
    """

    teacher: Name | tuple[Name, ...] | None = "teacher"
    objectives: tuple[Objective, ...] = (Objective(objective="SoftTargets"),)
    label_weight: Annotated[float, Field(ge=0.0, le=1.0)] | Scheduled = 0.1
    cache: Name | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Learning":
        if not self.objectives:
            raise ValueError("objectives is empty: leave it out, or name one")
        if self.cache is not None and self.augment != Augment():
            raise ValueError("a cache has one view of each example: leave cache or augment out")
        return self

    @property
    def teachers(self) -> tuple[str, ...]:
        """Its teachers' lines."""
        if self.teacher is None:
            return ()
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher

    @property
    def reads(self) -> tuple[str, ...]:
        """See `StageOf`."""
        return (self.model, *self.teachers)


class Train(Training):
    """A training on the labels alone: of a teacher, or of the student's twin."""

    stage: Literal["train"]


class Distil(Learning):
    """A training under a teacher."""

    stage: Literal["distil"]
    teacher: Name | tuple[Name, ...] = "teacher"


class Cache(StageOf):
    """A teacher's answers to all training examples, on disk."""

    stage: Literal["cache"]
    model: Name = "teacher"
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    top_k: Count | None = None


class Transfer(StageOf):
    """Weights from another line into the model's own layers, see `keras_distill.transfer`."""

    stage: Literal["transfer"]
    source: Name = "teacher"
    how: Literal["copy_layers", "copy_important", "copy_random"] = "copy_important"
    mapping: str | dict[str, str] = "name"

    @property
    def reads(self) -> tuple[str, ...]:
        """See `StageOf`."""
        return (self.model, self.source)


class Shrink(StageOf):
    """A narrower copy of another line's model, see `keras_distill.transfer.shrink`."""

    stage: Literal["shrink"]
    source: Name = "teacher"
    width: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    criterion: Literal["l1", "l2", "random"] = "l2"

    @property
    def reads(self) -> tuple[str, ...]:
        """See `StageOf`."""
        return (self.source,)

    @property
    def begins(self) -> bool:
        """See `StageOf`."""
        return True


class Submodel(StageOf):
    """A copy of another line's model that is less deep, see `keras_distill.transfer.submodel`."""

    stage: Literal["submodel"]
    source: Name = "teacher"
    keep: Count | tuple[str, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """See `StageOf`."""
        return (self.source,)

    @property
    def begins(self) -> bool:
        """See `StageOf`."""
        return True


class Prune(Learning):
    """Weights to zero while the training goes on; they stay zero in what follows.

    Args:
      skip: layers to leave as they are, by their names.
    """

    stage: Literal["prune"]
    sparsity: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    pattern: Literal["unstructured", "2:4"] = "unstructured"
    skip: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_a_goal(self) -> "Prune":
        if (self.sparsity is None) == (self.pattern == "unstructured"):
            raise ValueError("sparsity is for the pattern unstructured, which needs it")
        return self


class Cluster(Learning):
    """Few values for the weights of each layer, so that the file compresses.

    Args:
      skip: layers to leave as they are, by their names.
    """

    stage: Literal["cluster"]
    clusters: Annotated[int, Field(ge=2)] = 16
    skip: tuple[str, ...] = ()


class Quantize(Learning):
    """Quantisation-aware training; with `epochs: 0` the ranges are set from data and no more.

    Args:
      rows: examples that set the ranges before the training.
      weight_bits: 8 or 4.
      freeze_batch_norm_after: updates after which BatchNormalization stays as it is.
      skip: layers to leave in float, by their names.
    """

    stage: Literal["quantize"]
    epochs: Annotated[int, Field(ge=0)] = 2
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-4
    rows: Count = 512
    weight_bits: Literal[4, 8] = 8
    freeze_batch_norm_after: Count | None = None
    skip: tuple[str, ...] = ()


class Calibrate(StageOf):
    """The ranges of a quantised model, set anew from data."""

    stage: Literal["calibrate"]
    rows: Count = 512
    method: Literal["minmax", "percentile", "mse"] = "minmax"


class Reconstruct(StageOf):
    """The rounding of a quantised model's weights, learned block by block without labels."""

    stage: Literal["reconstruct"]
    examples: Annotated[int, Field(ge=16)] = 512
    iterations: Count = 400
    teacher: Name | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """See `StageOf`."""
        return (self.model,) if self.teacher is None else (self.model, self.teacher)


class Export(StageOf):
    """A `.tflite` of the model.

    Args:
      rows: examples that set the ranges at int8 and int16x8, where training has not set them.
    """

    stage: Literal["export"]
    precision: Literal["float32", "float16", "dynamic_int8", "int8", "int16x8"] = "int8"
    rows: Count = 1000

    @property
    def title(self) -> str:
        """See `StageOf`."""
        return self.name or f"export-{self.model}-{self.precision}"


class Verify(StageOf):
    """Whether a file answers as the model does that it was made from.

    Args:
      file: the name of the stage that exported it; by default the line's last one.
      rows: of the test data.
      max_drop, min_agreement, max_bytes, max_latency_ms: see `keras_distill.edge.verify`.
    """

    stage: Literal["verify"]
    file: Name | None = None
    rows: Count | None = None
    max_drop: Part = 0.01
    min_agreement: Part | None = None
    max_bytes: Count | None = None
    max_latency_ms: Annotated[float, Field(gt=0.0)] | None = None

    @property
    def title(self) -> str:
        """See `StageOf`."""
        return self.name or f"verify-{self.file or self.model}"


class Judge(StageOf):
    """All lines' models and all files on the same rows, whole and damaged."""

    stage: Literal["judge"]
    conditions: Literal["images", "recordings", "tables", "tokens"] | None = None
    metrics: tuple[str, ...] = ()
    rows: Count | None = None

    @property
    def title(self) -> str:
        """See `StageOf`."""
        return self.name or "judge"

    @property
    def reads(self) -> tuple[str, ...]:
        """Whatever is there."""
        return ()


class Explain(StageOf):
    """What a student has learned of its teacher, and what not."""

    stage: Literal["explain"]
    teacher: Name = "teacher"
    rows: Count = 512

    @property
    def reads(self) -> tuple[str, ...]:
        """See `StageOf`."""
        return (self.model, self.teacher)


AnyStage = Annotated[
    Train
    | Distil
    | Cache
    | Transfer
    | Shrink
    | Submodel
    | Prune
    | Cluster
    | Quantize
    | Calibrate
    | Reconstruct
    | Export
    | Verify
    | Judge
    | Explain,
    Field(discriminator="stage"),
]
