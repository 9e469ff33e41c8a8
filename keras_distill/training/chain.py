"""Chains of teachers: each model learns from the one before it, a resumable stage each."""

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_distill import _json
from keras_distill.objectives import Objective
from keras_distill.progress import LOG
from keras_distill.teachers import Teacher
from keras_distill.teachers.model import Model, as_teacher
from keras_distill.training import checks
from keras_distill.training.architecture import architecture_digest, plain_config
from keras_distill.training.chain_report import ChainReport, Generation, outcome
from keras_distill.training.distiller import Distiller
from keras_distill.training.stages import Folder, Stage, run_stages

__all__ = ["distill_chain"]


def distill_chain(
    teacher: Any,
    models: Sequence[keras.Model],
    train: Callable[[Distiller], Any],
    *,
    folder: str | Path,
    objectives: Callable[[], Any] | Sequence[Callable[[], Any]] | None = None,
    label_weight: Any = 0.1,
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    verbose: bool = False,
) -> ChainReport:
    """Trains the first model under `teacher`, and each of the others under the one before it.

    Assistants (TAKD) are models of sizes between teacher and student. Born-again generations are
    models of one architecture, `keras.models.clone_model(teacher)`.

    A generation's weights and history appear in `folder` whole or not at all. The same call goes on
    after the last whole one, whose weights it loads into the given models. A training that is
    stopped or fails leaves its model as it was before.

    Args:
      teacher: as `Distiller` takes it. Nothing of it changes.
      models: built models, in the order in which they learn, no two sharing a weight. All see the
        input that the data has. Each begins with the weights that it comes with. The next call
        knows them by name: give `name=`.
      train: compiles and fits the `Distiller` it is given, one a model; what it returns is not
        looked at. `distiller.student.name` tells them apart.
      folder: of this chain alone; made where there is none.
      objectives: a function that returns new objectives, as `Distiller` takes them, at each call;
        or a list of such functions, one a model; None for `Distiller`'s own.
      label_weight: as `Distiller`'s, for all.
      seed: the i-th model's training begins with `keras.utils.set_random_seed(seed + i)`, so that
        a chain that was stopped ends as one that was not.
      settings: what else decides the result, as JSON takes it, such as the number of epochs: a
        folder with other ones is refused. Neither `train` nor the data are looked into.
      verbose: print a line a generation.

    Returns:
      A `ChainReport`.

    Raises:
      TypeError: no list of models, no function `train`, objectives that are no functions.
      ValueError: an empty list; an unbuilt model; models that share weights with each other or with
        the teacher; whatever `Distiller` refuses, in any generation; a folder of another chain. All
        this before any training. After a training: no update was made, or weights that are not
        finite came out; nothing of it is kept.

    Source: Mirzadeh et al., "Improved Knowledge Distillation via Teacher Assistant", AAAI 2020;
    Furlanello et al., "Born-Again Neural Networks", ICML 2018.

    >>> import tempfile
    >>> def dense(width, name):
    ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(width, "relu"),
    ...                              keras.layers.Dense(3)], name=name)
    >>> def train(distiller):
    ...     distiller.compile("adam")
    ...     distiller.fit(keras.ops.ones((8, 4)), verbose=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = distill_chain(
    ...         dense(9, "large"), [dense(6, "medium"), dense(3, "small")], train, folder=folder)
    >>> [(one.name, one.teacher) for one in report.generations]
    [('medium', 'large'), ('small', 'medium')]
    """
    models = _checked(teacher, models)
    if not callable(train):
        raise TypeError(f"train must be a function that fits a Distiller; got {train!r}.")
    chain = _Chain(teacher, models, train, _makers(objectives, len(models)), label_weight, seed)
    decided = {**chain.settings(), "settings": _plain(settings or {})}
    output = Folder(folder)
    try:
        with output.open(decided, chain.stages(), added=["teacher's graph"]):
            return chain.run(output, verbose)
    except KeyboardInterrupt:
        if verbose:
            kept = output.finished_words()
            LOG.info("Stopped. %s The same call goes on from there.", kept)
        raise


class _Chain:
    """The generations' distillers, and the stages that train them."""

    def __init__(self, teacher, models, train, makers, label_weight, seed):
        self._names = [_name(teacher), *(model.name for model in models)]
        self._teachers = [as_teacher(teacher), *models[:-1]]
        self._models, self._train, self._makers = models, train, makers
        self._label_weight, self._seed = label_weight, seed
        # Of the model whose stage is at work, until its files and their record are whole.
        self._before: list[tuple[Any, np.ndarray]] = []

    def settings(self) -> dict[str, Any]:
        """What decides the result; finds it by building every Distiller, which may refuse."""
        found: dict[str, Any] = {"seed": self._seed}
        for i, model in enumerate(self._models):
            distiller = self._distiller(i)
            found[f"model {i + 1}"] = {
                "name": model.name,
                "parameters": model.count_params(),
                "architecture": architecture_digest(model),
            }
            found[f"objectives {i + 1}"] = [plain_config(o) for o in distiller.objectives]
        found["label_weight"] = plain_config(self._label_weight)
        # A function's weights are known once it has been traced.
        found["teacher's graph"] = [one.identity() for one in _models(self._teachers[0])]
        return {"teacher": self._teachers[0].fingerprint(), **found}

    def stages(self) -> list[Stage]:
        """One a model."""
        return [self._stage(i, model.name) for i, model in enumerate(self._models)]

    def run(self, folder: Folder, verbose: bool) -> ChainReport:
        """Train what is not finished, load what is; a model whose stage fails is as it was."""
        try:
            return self._run(folder, verbose)
        except BaseException:
            for variable, value in self._before:
                variable.assign(value)
            raise

    def _run(self, folder: Folder, verbose: bool) -> ChainReport:
        generations = []
        for i, (stage, words, reused) in enumerate(run_stages(self.stages(), folder)):
            self._before = []
            weights, record = (folder.path / name for name in stage.artefacts)
            if reused:
                self._models[i].load_weights(weights)
            if verbose:
                whose = f"{self._names[i + 1]} learned from {self._names[i]}"
                kept = " (finished earlier)" if reused else ""
                LOG.info("%d/%d %s: %s%s", i + 1, len(self._models), whose, words, kept)
            history = _json.read(record)
            seconds = folder.seconds()[stage.name]
            generations.append(self._generation(i, seconds, history, weights))
        return ChainReport(tuple(generations))

    def _generation(self, i: int, seconds: float, history: Any, weights: Path) -> Generation:
        model = self._models[i]
        return Generation(
            name=model.name,
            teacher=self._names[i],
            parameters=model.count_params(),
            seconds=seconds,
            history=history,
            weights=weights,
            model=model,
        )

    def _stage(self, i: int, name: str) -> Stage:
        stem = f"{i + 1}_{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}"
        files = (f"{stem}.weights.h5", f"{stem}.json")

        def make(into: Path) -> str:
            history = self._trained(i)
            self._models[i].save_weights(into / files[0])
            (into / files[1]).write_text(json.dumps(history) + "\n", encoding="utf-8")
            return outcome(history)

        return Stage(f"{i + 1} {name}", files, make)

    def _trained(self, i: int) -> dict[str, list]:
        """The history of a generation's training."""
        variables = self._models[i].variables
        self._before = [(v, np.array(keras.ops.convert_to_numpy(v))) for v in variables]
        if self._seed is not None:
            keras.utils.set_random_seed(self._seed + i + 1)
        with warnings.catch_warnings():
            # They were heard when the settings were found.
            warnings.simplefilter("ignore")
            distiller = self._distiller(i)
        self._train(distiller)
        _check_trained(distiller)
        history = getattr(getattr(distiller, "history", None), "history", {})
        return {name: [np.asarray(v).tolist() for v in values] for name, values in history.items()}

    def _distiller(self, i: int) -> Distiller:
        teacher, objectives = self._teachers[i], self._makers[i]()
        return Distiller(self._models[i], teacher, objectives, label_weight=self._label_weight)


def _checked(teacher: Any, models: Any) -> list[keras.Model]:
    if not isinstance(models, (list, tuple)):
        raise TypeError(f"models must be a list, in the order in which they learn; got {models!r}.")
    if not models:
        raise ValueError("models is empty: give at least the student.")
    owners = {id(weight): "the teacher" for weight in _weights(teacher)}
    for i, model in enumerate(models, start=1):
        checks.check_student(model)
        if shared := next((owners[id(w)] for w in model.weights if id(w) in owners), None):
            raise ValueError(
                f"Model {i} of the chain, {model.name!r}, shares weights with {shared}, which "
                f"would forget what it teaches. Give a model of its own: "
                f"keras.models.clone_model() makes one of the same architecture."
            )
        owners.update({id(weight): f"model {i}, {model.name!r}" for weight in model.weights})
    return list(models)


def _weights(value: Any) -> Iterator[Any]:
    """The weights of a model, or of all models that a teacher holds."""
    for layer in _inside(value, keras.layers.Layer):
        yield from layer.weights


def _models(teacher: Teacher) -> Iterator[Model]:
    """The models behind a teacher, one a member of a teacher made of teachers."""
    yield from _inside(teacher, Model)


def _inside(value: Any, kind: type) -> Iterator[Any]:
    """Everything of a class that a teacher, or one that it is made of, holds."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, Teacher):
        yield from _inside(list(vars(value).values()), kind)
    elif isinstance(value, Mapping):
        yield from _inside(list(value.values()), kind)
    elif type(value) in (list, tuple):
        for one in value:
            yield from _inside(one, kind)


def _makers(objectives: Any, count: int) -> list[Callable[[], Any]]:
    if objectives is None:
        return [lambda: None] * count
    many = isinstance(objectives, (list, tuple))
    makers = list(objectives) if many else [objectives] * count
    if any(isinstance(one, Objective) or not callable(one) for one in makers):
        raise TypeError(
            f"objectives must be a function that makes new ones for each generation, such as "
            f"lambda: [SoftTargets()], or a list of such functions; got {objectives!r}."
        )
    if len(makers) != count:
        raise ValueError(
            f"Expected {count} functions in objectives, one a model; got {len(makers)}."
        )
    return makers


def _plain(settings: Mapping[str, Any]) -> Any:
    try:
        return json.loads(json.dumps(dict(settings)))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"settings must be a dict of what JSON takes, numbers and strings; got {settings!r} "
            f"({error})."
        ) from error


def _check_trained(distiller: Distiller) -> None:
    optimizer = getattr(distiller, "optimizer", None)
    name = distiller.student.name
    if optimizer is None or not int(optimizer.iterations):
        raise ValueError(
            f"train() returned, and {name!r} had learned nothing: the distiller's optimizer made "
            f"no update. Let train() call compile() and fit() of the distiller it is given."
        )
    for weight in distiller.student.weights:
        if "float" in str(weight.dtype) and not bool(keras.ops.all(keras.ops.isfinite(weight))):
            raise ValueError(
                f"{name!r} came out of its training with numbers in {weight.path} that are not "
                f"finite: it can't teach. Try a smaller learning rate, or clipnorm=."
            )


def _name(teacher: Any) -> str:
    name = getattr(teacher, "name", None) or getattr(teacher, "__name__", None)
    return str(name or type(teacher).__name__)
