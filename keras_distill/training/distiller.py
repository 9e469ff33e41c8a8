"""The Keras face: a model whose `fit` trains a student under a teacher."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_distill import _keras, schedules
from keras_distill.objectives import Objective, Signals
from keras_distill.signals import outputs
from keras_distill.signals.reader import student_reader
from keras_distill.teachers.base import Absent, Teacher
from keras_distill.teachers.cache import CachedBatch
from keras_distill.teachers.model import as_teacher
from keras_distill.training import arguments, checks, fit_arguments, resuming, saving, step
from keras_distill.training.label_losses import LabelReader
from keras_distill.training.labels import check_unlabelled, measuring
from keras_distill.training.metrics import RunningMeans
from keras_distill.training.settings import FollowSettings, Settings

__all__ = ["Distiller"]


@keras.saving.register_keras_serializable("keras_distill")
class Distiller(saving.WholeFiles):
    """Trains `student` on labels and on what `teacher` says of the same batch.

    `total = label_weight * label loss + (1 - label_weight) * sum(weight * objective)
    + sum(student.losses)`; with `compile(loss=None)` the objectives count in full, and so they do
    for a row labelled -1, which has no label: where a tenth of the rows has one, the label loss
    counts a tenth of `label_weight`, each labelled row as much as if all were. `fit` logs the total
    as `loss`, the label loss as `label_loss`, each objective under its name and what follows a
    schedule under the objective's name and the argument's; `predict` runs the student alone, and so
    does `evaluate` without `compile(validate_objectives=True)`.

    Args:
      student: a built Keras 3 model of any kind.
      teacher: a model of either Keras generation, a `keras_distill.teachers.Teacher`, or a callable
        that returns logits. Nothing of it changes.
      objectives: one `Objective` or a list; None means `[SoftTargets(temperature=2.0)]`.
      label_weight: the share of the label loss in what a row with a label teaches, in [0, 1]; a
        number, a schedule or a variable.
      student_preprocess, teacher_preprocess: callables on `x`, for models that see different views.
      student_output: what the student returns: "logits", "probabilities" (a distribution over the
        last axis), "sigmoid" (a yes or no each), a dict of them by output, or "auto", which finds
        it in the graph; what it does not know counts as logits.

    Raises:
      ValueError: shapes that do not fit, a tap that does not exist, an unbuilt student, equal
        names of objectives, a label weight outside [0, 1].
      RuntimeError: Keras runs on another backend than TensorFlow.

    >>> student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> teacher = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(3)])
    >>> distiller = Distiller(student, teacher)
    >>> distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> logs = distiller.fit(keras.ops.ones((8, 4)), keras.ops.zeros((8,), "int32"), verbose=0)
    >>> sorted(logs.history)
    ['label_loss', 'loss', 'soft_targets']
    """

    # Of a fit with a backup, and of the weights that were loaded last.
    epochs_behind: int | None = None
    epochs_loaded: int | None = None

    def __init__(
        self,
        student: keras.Model,
        teacher: Any,
        objectives: Objective | Sequence[Objective] | None = None,
        *unnamed: Any,
        label_weight: Any = 0.1,
        student_preprocess: Callable | None = None,
        teacher_preprocess: Callable | None = None,
        student_output: Any = "auto",
        name: str = "distiller",
        **foreign: Any,
    ):
        checks.check_backend()
        arguments.refuse_foreign_arguments(foreign, "Distiller")
        arguments.refuse_unnamed_arguments(unnamed, "Distiller", "student, teacher, objectives")
        checks.check_student(student)
        super().__init__(name=name, dtype=_policy(student), autocast=False)
        self.student = student
        self.label_weight = label_weight
        self._student_preprocess = student_preprocess
        self._teacher_preprocess = teacher_preprocess
        self._student_output = outputs.check_kind(student_output, "student_output")
        self._objectives = arguments.as_objectives(objectives)
        self._settings = self._tested_settings = Settings(self._objectives, self._label_weight)
        self._log = RunningMeans()
        self._evaluating = False
        self._unlabelled: Any = "auto"
        self._validate_objectives = False
        self._teacher = as_teacher(teacher)
        self._teacher_revision = self._teacher.revision
        if teacher_preprocess is not None and self._teacher.cached:
            raise ValueError(
                "teacher_preprocess= comes too late for a TeacherCache, whose teacher has answered "
                "already. Give it to TeacherCache.build(teacher_preprocess=...)."
            )
        self._reader = student_reader(student, self._student_taps(), student_output)
        self._teacher_spec = self._built_teacher(self._teacher)
        self._build_objectives()
        self.built = True
        checks.warn_of_swap(student, self._teacher.count_params())
        checks.warn_of_random_layers(student)

    @property
    def teacher(self) -> Teacher:
        """Where the knowledge comes from; no Keras object."""
        return self._teacher

    def teacher_state(self) -> tuple:
        """What of the teacher a checkpoint holds: only what training moves."""
        return self._teacher.state

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What is learned from the teacher."""
        return tuple(self._objectives)

    @property
    def label_weight(self) -> Any:
        """The share of the label loss: a number, or a schedule or variable that gives it.

        What is assigned in the midst of `fit` counts from the next batch on.
        """
        return self._label_weight

    @label_weight.setter
    def label_weight(self, value: Any) -> None:
        object.__setattr__(self, "_label_weight", checks.check_label_weight(value))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "label_weight":
            # Past Keras' tracking: a variable that weighs the losses must not be trained.
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def output_names(self) -> list[str]:
        """The student's, by which Keras names losses and metrics of several outputs."""
        return self.student.output_names

    @property
    def metrics(self) -> list:
        """The running means of the step's parts, in `evaluate` of the loss, and Keras' own."""
        kept = [metric for metric in super().metrics if metric is not _keras.loss_tracker(self)]
        logged = self._log.evaluated(self._validated()) if self._evaluating else self._log.metrics()
        directions = _keras.Directions(
            {**self._log.directions(), **_keras.named_directions(_keras.compiled(self)[1])}
        )
        return [*logged[:1], *kept, *logged[1:], directions]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The student's answer."""
        if isinstance(inputs, CachedBatch):
            inputs = inputs.inputs
        if self._student_preprocess is not None:
            inputs = self._student_preprocess(inputs)
        return self.student(inputs, training=training)

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        *unnamed: Any,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: Any = "auto",
        auto_scale_loss: bool = True,
        unlabelled: Any = "auto",
        validate_objectives: bool = False,
        **foreign: Any,
    ) -> None:
        """As `keras.Model.compile`; `loss=None` learns from the teacher alone.

        Args:
          unlabelled: which label says that there is none: -1, or None for none such. "auto" is -1
            where labels are read as classes or as yes and no by the loss, or where this is a
            function of your own by one of the metrics; in labels that a Keras loss reads as
            numbers, and in floats for a function of your own, -1 is a number; in other labels for
            such a function it raises. Or a dict of these by output. A function that gives one value
            a row of several labels reads them as they are, and leaves out rows without any.
          validate_objectives: `evaluate` and validation ask the teacher, too, and log each
            objective by its name, unweighted, so that `EarlyStopping("val_soft_targets")` works on
            unlabelled data. `loss` stays the student's own. Nothing but metrics changes; a
            distiller that was loaded without its teacher evaluates the student alone. With a
            `TeacherCache` the data must be a data set of a cache of the same teacher.

        Raises:
          ValueError: a loss whose `from_logits` contradicts the student; XLA asked for with a
            teacher that XLA can't take; an `unlabelled` that is none of these; objectives to
            validate where there are none.
        """
        arguments.refuse_foreign_arguments(foreign, "compile")
        arguments.refuse_unnamed_arguments(unnamed, "compile", "optimizer, loss")
        arguments.check_compiled_with(optimizer, loss)
        checks.check_label_loss(loss, self._reader.kinds)
        checks.check_balances(self._objectives, loss)
        checks.warn_of_regression(loss, self._reader.kinds, self._objectives)
        heads = tuple(self._reader.spec.heads)
        self._unlabelled = check_unlabelled(unlabelled, heads)
        self._validate_objectives = checks.check_validated(validate_objectives, self._objectives)
        _keras.forget_compiled(self)
        super().compile(
            optimizer=optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=self._teacher.jit_compile(jit_compile),
            auto_scale_loss=auto_scale_loss,
        )
        self._log.reset(self._logged(), len(heads), labelled=loss is not None)

    def save_own_variables(self, store: Any) -> None:
        """What Keras leaves out of a weight file: random state, and what moves of the teacher."""
        saving.write_state(
            store, saving.seed_states(self), self.teacher_state(), self.epochs_behind
        )

    def load_own_variables(self, store: Any) -> None:
        """Take up what `save_own_variables` wrote."""
        self.epochs_loaded = saving.read_state(store, saving.seed_states(self), self._teacher)

    def get_config(self) -> dict:
        """What rebuilds this distiller, its teacher's shapes in place of its teacher.

        Raises:
          ValueError: a lambda, or another object without a name, among the preprocessing functions.
        """
        arguments = {
            "student": self.student,
            "objectives": self._objectives,
            "label_weight": self._label_weight,
            "student_preprocess": self._student_preprocess,
            "teacher_preprocess": self._teacher_preprocess,
            "student_output": self._student_output,
            "name": self.name,
        }
        return saving.config_of(arguments, self._teacher_spec)

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> Any:
        """A distiller without its teacher: it evaluates and predicts."""
        return cls(**saving.arguments_of_config(config, custom_objects))

    @staticmethod
    def load(path: Any, teacher: Any, custom_objects: dict | None = None) -> Any:
        """A saved distiller with its teacher back, ready to train on.

        Args:
          path: a `.keras` file that `save` wrote.
          teacher: as the constructor takes it.
          custom_objects: as `keras.saving.load_model` takes them.

        Raises:
          ValueError: the teacher's outputs are not those the distiller was built with.
        """
        distiller = keras.saving.load_model(path, custom_objects=custom_objects)
        distiller._attach(as_teacher(teacher))
        return distiller

    def _attach(self, teacher: Teacher) -> None:
        saving.check_signals(self._built_teacher(teacher), self._teacher_spec)
        held = self._teacher.held if isinstance(self._teacher, Absent) else []
        # A teacher that did not learn in the file's training begins to now.
        for variable, value in zip(teacher.state, held, strict=False):
            variable.assign(value)
        self._teacher = teacher
        self._teacher_revision = teacher.revision
        self.train_function = self.test_function = None

    def get_compile_config(self) -> dict:
        """What `compile` was given."""
        config = super().get_compile_config()
        own = {"unlabelled": self._unlabelled, "validate_objectives": self._validate_objectives}
        usual = {"unlabelled": "auto", "validate_objectives": False}
        return {**config, **{key: own[key] for key in own if own[key] != usual[key]}}

    def compile_from_config(self, config: dict) -> None:
        """Compile as the saved distiller was, its optimiser ready for its saved state."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.fit`. The teacher's weights are those it has now.

        Raises:
          ValueError: data without a batch, validation with nothing to evaluate, or no teacher.
        """
        checks.check_data(x)
        self._teacher.check_data(x)
        given = inspect.signature(super().fit).bind(x, *args, **kwargs).arguments
        self._check_validation(given)
        if given.get("class_weight") is not None:
            first, *_ = self._reader.spec.heads.values()
            given = fit_arguments.with_class_weight(given, first.logits)
        self._take_up_teacher()
        extra = [*self._teacher.callbacks(), FollowSettings()]
        history = super().fit(**_with_callbacks(given, extra))
        checks.check_trained(history)
        return history

    def make_train_function(self, force: bool = False) -> None:
        """As Keras', and anew where a number was assigned that the step took for constant."""
        settings = Settings(self._objectives, self._label_weight)
        assigned = self.train_function is not None and self._settings.differ(settings)
        self._settings = settings
        if assigned:
            with self.distribute_strategy.scope():
                self._log.follow(self._logged())
        super().make_train_function(force=force or assigned)

    def make_test_function(self, force: bool = False) -> None:
        """As Keras', and anew where a number was assigned that evaluation took for constant."""
        settings = Settings(self._objectives, self._label_weight)
        known = self.test_function is not None and self._validates
        assigned = known and self._tested_settings.differ(settings)
        self._tested_settings = settings
        super().make_test_function(force=force or assigned)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`: of the student alone, or of the objectives as well.

        Raises:
          ValueError: nothing to evaluate; objectives to validate on data that a `TeacherCache`
            does not know.
        """
        if self._validates and not _keras.is_validation_of_fit(kwargs):
            self._teacher.check_evaluated(x)
            self._take_up_teacher()
        with self._evaluation():
            return super().evaluate(x, *args, **kwargs)

    def _take_up_teacher(self) -> None:
        """What changed of the teacher, which another Distiller may have found before."""
        if self._teacher.refresh() or self._teacher.revision != self._teacher_revision:
            self.train_function = self.test_function = None
        self._teacher_revision = self._teacher.revision

    def train_step(self, data: Any) -> dict[str, Any]:
        """One update: one forward of the teacher, one of the student, one backward."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x, y = step.silenced(x, y, sample_weight)
        with tf.GradientTape(persistent=bool(self._measured())) as tape:
            objectives = [o.at(self.optimizer.iterations) for o in self._objectives]
            label_weight = schedules.value_at(self._label_weight, self.optimizer.iterations)
            student, y_pred = self._student_signals(x)
            heads = self._reader.heads(y_pred)
            with tape.stop_recording():
                pairs = self._pairs(x, y, student)
            labels = self._label_reader(y, y_pred, sample_weight, heads)
            head_losses = labels.losses(_rows(x))
            shares = step.shares_of_objectives(head_losses, label_weight, heads)
            terms, taught = step.taught_terms(
                objectives, pairs, y, sample_weight, _masks(heads), shares
            )
            parts = step.total(
                head_losses,
                taught,
                objectives,
                label_weight=label_weight,
                penalties=self.student.losses,
                balances=[o.weight.penalty() for o in self._objectives if _balanced(o)],
            )
            loss = self.optimizer.scale_loss(self._scaled_for_replicas(parts.total))
        variables = self.trainable_variables
        checks.check_trainable(self.student, variables)
        scheduled = step.scheduled_values(self._objectives, objectives, *pairs[0])
        if not self.optimizer.built:
            with _keras.outside_the_trace():
                self.optimizer.build(variables)
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        self._measure(tape, parts.label_loss, terms)
        _keras.forget_custom_gradients()
        self._after_update()
        self._log.update_losses(head_losses, parts.shares, parts.rest, _rows(x))
        self._log.update({**terms, "label_weight": label_weight, **scheduled}, _rows(x))
        labels.update_metrics()
        return self.get_metrics_result()

    def test_step(self, data: Any) -> dict[str, Any]:
        """The student's label loss, its own losses and metrics, and the objectives if asked for."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        self._check_something_to_evaluate()
        x, y = step.silenced(x, y, sample_weight)
        if self._validates:
            student, y_pred = self._student_signals(x, training=False)
        else:
            y_pred = self(x, training=False)
        heads = self._reader.heads(y_pred)
        labels = self._label_reader(y, y_pred, sample_weight, heads)
        penalties = [tf.cast(tf.reduce_sum(p), "float32") for p in self.student.losses]
        self._log.update_evaluated(labels.losses(_rows(x)), sum(penalties), _rows(x))
        if self._validates:
            objectives = [o.at(self.optimizer.iterations).evaluating() for o in self._objectives]
            pairs = self._pairs(x, y, student, training=False)
            terms = step.objective_terms(objectives, pairs, y, sample_weight, _masks(heads))
            self._log.update(terms, _rows(x))
        labels.update_metrics()
        with self._evaluation():
            return self.get_metrics_result()

    def _logged(self) -> list[str]:
        """What `fit` logs besides losses and metrics."""
        moves = _keras.compiled(self)[0] is not None and schedules.is_scheduled(self._label_weight)
        names = ["label_weight"] if moves else []
        for objective in self._objectives:
            scheduled = step.scheduled_names(objective)
            names += [objective.name, *(f"{objective.name}_{key}" for key in scheduled)]
        return names

    def _build_objectives(self) -> None:
        """Learn every shape, and let the objectives make their adapters."""
        student, teacher = self._learner_spec(), self._teacher_spec
        adapters: dict[str, keras.layers.Layer] = {}
        for objective in self._objectives:
            for ours, theirs, _ in step.pairs_of_heads(objective, student, teacher):
                made = objective.build(ours, theirs)
                adapters.update({f"{objective.name}_{k}": layer for k, layer in made.items()})
            if _balanced(objective):
                adapters[f"{objective.name}_weight"] = objective.weight
        self._adapters = adapters

    def _learner_spec(self) -> Signals:
        return self._reader.spec

    def _student_taps(self) -> list:
        """Which of the student's layers are read in a step."""
        return [key for objective in self._objectives for key in objective.student_taps]

    def _pairs(
        self, x: Any, y: Any, student: Signals, training: bool = True
    ) -> list[tuple[Signals, Signals]]:
        """Who learns of whom in this batch; objectives are averaged over the pairs."""
        if self._teacher_preprocess is not None:
            x = self._teacher_preprocess(x)
        ask = self._teacher.answer if training else self._teacher.undisturbed
        return [(student, outputs.finite(ask(x, y), self._teacher))]

    def _student_signals(self, x: Any, training: bool = True) -> tuple[Signals, Any]:
        with self._reader.recording() as recorder:
            y_pred = self(x, training=training)
        return self._reader.signals(y_pred, recorder), y_pred

    def _built_teacher(self, teacher: Teacher) -> Signals:
        teacher.meet(self.student)
        keys = tuple(dict.fromkeys(k for o in self._objectives for k in o.teacher_taps))
        views_differ = self._student_preprocess or self._teacher_preprocess
        return teacher.prepare(None if views_differ else self._reader.input_spec, keys)

    def _label_reader(
        self, y: Any, y_pred: Any, sample_weight: Any, heads: Mapping[str | None, Any]
    ) -> LabelReader:
        losses, metrics = _keras.compiled(self)
        if losses is not None and y is None:
            raise ValueError(_NO_LABELS)
        routes: list[_keras.LossRoute] = (
            [] if losses is None else _keras.loss_routes(losses, y, y_pred, sample_weight)
        )
        measured: list[_keras.MetricRoute] = []
        with measuring(y):
            if metrics is not None:
                measured = _keras.metric_routes(metrics, y, y_pred, sample_weight)
        return LabelReader(self._unlabelled, self._reader.kinds, heads, routes, measured)

    @contextlib.contextmanager
    def _evaluation(self) -> Iterator[None]:
        """Metrics are those of `evaluate`: Keras shows them if the logs have the same names."""
        before, self._evaluating = self._evaluating, True
        try:
            yield
        finally:
            self._evaluating = before

    def _check_something_to_evaluate(self) -> None:
        if _keras.compiled(self) == (None, None) and not self._validates:
            raise ValueError(
                "There is nothing to evaluate: compile() was given neither loss nor metrics. Give "
                "metrics=, such as ['accuracy'], or validate_objectives=True to learn what the "
                "objectives say (of a loaded distiller its teacher's, see Distiller.load), or "
                "leave the validation data out."
            )

    @property
    def _validates(self) -> bool:
        return self._validate_objectives and not isinstance(self._teacher, Absent)

    def _validated(self) -> list[str]:
        return [o.name for o in self._objectives] if self._validates else []

    def _check_validation(self, given: Mapping[str, Any]) -> None:
        """What `fit` was given to validate on can be, before the epoch that comes first."""
        x, y, _ = fit_arguments.validation_of(given)
        if x is None:
            return
        self._check_something_to_evaluate()
        unlabelled = fit_arguments.lacks_labels(x, y)
        if unlabelled and _keras.compiled(self)[0] is not None:
            raise ValueError(_NO_LABELS)
        if self._validates:
            self._teacher.check_evaluated(x)
            step.check_labels_needed(self._objectives if unlabelled else ())

    def _scaled_for_replicas(self, loss: Any):
        return loss / self.distribute_strategy.num_replicas_in_sync

    def _after_update(self) -> None:
        step.notify(self.student, self.optimizer.iterations)
        self._teacher.after_update(self.optimizer.iterations)

    def _measured(self) -> list[Objective]:
        """The objectives whose weight follows their gradient."""
        return [o for o in self._objectives if _balanced(o) and o.weight.measures_gradients]

    def _measure(self, tape: tf.GradientTape, label_loss: Any, terms: Mapping[str, Any]) -> None:
        if not self._measured():
            return
        variables = self.student.trainable_variables
        label_norm = step.gradient_norm(tape.gradient(label_loss, variables))
        for objective in self._measured():
            gradients = tape.gradient(terms[objective.name], variables)
            objective.weight.observe(label_norm, step.gradient_norm(gradients))


_NO_LABELS = (
    "compile() was given a label loss, and the data has no labels. Use compile(loss=None) to learn "
    "from the teacher alone, or give (x, y); rows without a label among others take the label -1."
)


def _balanced(objective: Objective) -> bool:
    return isinstance(objective.weight, schedules.Balance)


def _policy(student: keras.Model):
    policies = [layer.dtype_policy for layer in _keras.layers_of(student)]
    half = [policy for policy in policies if policy.compute_dtype == "float16"]
    return half[0] if half else student.dtype_policy


def _with_callbacks(given: dict, extra: list) -> dict:
    """`fit`'s arguments by name, with these callbacks besides the caller's."""
    callbacks = given.get("callbacks")
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.callbacks[:] = resuming.with_epochs([*callbacks.callbacks, *extra])
        callbacks.set_params(callbacks.params)
        callbacks.set_model(callbacks.model)
        return given
    every = resuming.with_epochs([*keras.tree.flatten(callbacks or []), *extra])
    return {**given, "callbacks": every} if every else given


def _masks(heads: Mapping[str | None, Any]) -> dict[str | None, Any]:
    return {head: _keras.mask_of(answer) for head, answer in heads.items()}


def _rows(x: Any):
    return tf.shape(keras.tree.flatten(x)[0])[0]
