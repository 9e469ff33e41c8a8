"""The space of a recipe: the usual one, its values, and the recipes of its trials."""

import pytest
import yaml

from keras_distill.pipeline.recipes.reading import load_recipe, read_recipe, written
from keras_distill.pipeline.tuning.space import space_of
from keras_distill.pipeline.tuning.usual import with_space
from keras_distill.training.stages import UsageError

WIDTH = "models.student.arguments.width"
AT = "stages.distil-student"


def test_the_usual_space_is_around_the_recipes_own_values():
    space = space_of(with_space(load_recipe("tiny")))
    found = {one.place: (one.values.low, one.values.high, one.own) for one in space.parameters}
    assert found == {
        f"{AT}.objectives.0.temperature": (1.0, 16.0, 2.0),
        f"{AT}.label_weight": (0.0, 0.9, 0.1),
        f"{AT}.learning_rate": (0.001, 0.03, 0.01),
        WIDTH: (4, 16, 8),
    }
    assert list(space.short_names.values()) == [
        "temperature",
        "label_weight",
        "learning_rate",
        "width",
    ]


def test_a_search_runs_what_its_file_needs_and_no_more():
    recipe = load_recipe("tiny")
    short, title = space_of(with_space(recipe)).short_of(recipe)
    assert [one.title for one in short.stages] == [
        "train-teacher",
        "distil-student",
        "export-student-int8",
    ]
    assert title == "export-student-int8"
    plain = yaml.safe_load(written(recipe)) | {"tune": {"file": "export-student-float32"}}
    other = read_recipe(yaml.safe_dump(plain))
    assert space_of(with_space(other)).short_of(other)[1] == "export-student-float32"


def test_a_precision_that_is_searched_names_its_file_anew(space):
    text = yaml.safe_dump(
        yaml.safe_load(written(space.recipe))
        | {"tune": {"space": {"stages.export-student-int8.precision": ["int8", "float16"]}}}
    )
    space = space_of(read_recipe(text))
    (parameter,) = space.parameters
    values = space.drawn({parameter.place: '"float16"'})
    assert space.short_of(space.recipe_of(values))[1] == "export-student-float16"


def test_the_recipe_of_a_trial_is_the_recipe_but_for_its_values(space):
    values = space.drawn({WIDTH: 5, f"{AT}.learning_rate": 0.02, f"{AT}.objectives.0": DKD})
    found = yaml.safe_load(written(space.recipe_of(values)))
    expected = yaml.safe_load(written(space.recipe)) | {"tune": None}
    expected["models"]["student"]["arguments"]["width"] = 5
    expected["stages"][1]["learning_rate"] = 0.02
    expected["stages"][1]["objectives"] = [{"objective": "DKD"}]
    assert found == expected


DKD = '{"objective": "DKD"}'
RIGHT = {WIDTH: 5, f"{AT}.learning_rate": 0.02, f"{AT}.objectives.0": DKD}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({WIDTH: 17}, "width = 17, which the recipe does not let it be"),
        ({WIDTH: 5.0}, "width = 5.0"),
        ({WIDTH: True}, "width = True"),
        ({WIDTH: "5"}, "width = '5'"),
        ({f"{AT}.learning_rate": float("nan")}, "learning_rate = nan"),
        ({f"{AT}.objectives.0": "DKD"}, "= 'DKD'"),
        ({"data.set": "x"}, "'data.set', which the recipe does not let anyone change"),
    ],
)
def test_only_its_own_values_are_drawn(space, wrong, words):
    space.drawn(RIGHT)
    with pytest.raises(ValueError, match=words):
        space.drawn(RIGHT | wrong)
    with pytest.raises(ValueError, match="nothing for models"):
        space.drawn({key: value for key, value in RIGHT.items() if key != WIDTH})


def test_short_names_stay_apart():
    text = """\
name: chain
data: {set: digits}
models: {teacher: {build: cnn}, student: {build: cnn}}
stages:
  - {stage: train, model: teacher, labels: all}
  - {stage: distil, name: first}
  - {stage: distil, name: second}
  - {stage: export}
tune:
  space:
    stages.first.label_weight: [0.1, 0.2]
    stages.second.label_weight: [0.1, 0.2]
    stages.second.epochs: [10, 20]
"""
    names = space_of(read_recipe(text)).short_names
    assert list(names.values()) == ["first.label_weight", "second.label_weight", "epochs"]


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ("[{stage: train, model: teacher}]", "needs a stage export"),
        (
            "[{stage: train, model: teacher}, {stage: export, model: teacher}]",
            "nothing that is usually searched: no stage distil of teacher.*tune.space",
        ),
    ],
)
def test_a_recipe_with_nothing_to_search_is_told_so(stages, words):
    text = f"name: n\ndata: {{set: digits}}\nmodels: {{teacher: {{build: cnn}}}}\nstages: {stages}"
    with pytest.raises(UsageError, match=words):
        with_space(read_recipe(text))
