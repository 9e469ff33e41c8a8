"""A recipe that can be searched, and studies of it whose trials cost nothing."""

from contextlib import contextmanager

import pytest

from keras_distill.pipeline.recipes.reading import read_recipe
from keras_distill.pipeline.tuning import study as studies
from keras_distill.pipeline.tuning.measuring import Measured
from keras_distill.pipeline.tuning.space import space_of

TEXT = """\
name: small
data: {set: digits}
models:
  teacher: {build: cnn}
  student: {build: small_cnn, arguments: {width: 8}}
stages:
  - {stage: train, model: teacher, labels: all}
  - {stage: distil}
  - {stage: export}
tune:
  space:
    models.student.arguments.width: {low: 4, high: 16}
    stages.distil-student.learning_rate: {low: 1e-4, high: 1e-1, log: true}
    stages.distil-student.objectives.0: [SoftTargets, DKD]
"""


@pytest.fixture
def space():
    """Of the recipe above: whole numbers, numbers, choices."""
    return space_of(read_recipe(TEXT))


@pytest.fixture
def opened(tmp_path, space):
    """Opens a study in a file of this test's: `with opened() as study`."""

    @contextmanager
    def open_study(name="small", space=space, seed=0, worker="here", url=None, **decided):
        url = url or f"sqlite:///{tmp_path / 'study.db'}"
        decided = {"stages": 1, "data": 1} | decided
        with studies.opened(url, name, space, "accuracy", seed, worker, decided) as study:
            yield study

    return open_study


@pytest.fixture
def measured():
    """Figures made up of a trial's values: the wider, the better, the larger and the slower."""

    def figures(values):
        width = values["models.student.arguments.width"]
        return Measured(1 - 1 / width, 100 * width, width / 10, width / 11, width / 9, "a phone")

    return figures


@pytest.fixture
def search(measured):
    """Asks for trials and tells their figures: `search(study, 3)`, the values of each."""

    def ask_and_tell(study, count):
        found = []
        for _ in range(count):
            trial, values = study.ask()
            study.tell(trial, measured(values), 1.0)
            found.append(values)
        return found

    return ask_and_tell
