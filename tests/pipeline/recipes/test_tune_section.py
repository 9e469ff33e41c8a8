"""The section `tune` of a recipe: places that are there, values that give a recipe."""

import re
from pathlib import Path

import pytest
import yaml

from keras_distill.pipeline.recipes.places import changed, find_keys, value_at
from keras_distill.pipeline.recipes.reading import read_recipe, written
from keras_distill.training.stages import UsageError

TEXT = """\
name: small
data: {set: digits}
models:
  teacher: {build: cnn}
  student: {build: small_cnn, arguments: {width: 8}}
stages:
  - {stage: train, model: teacher, labels: all}
  - {stage: distil, name: step 1.5}
  - {stage: prune, sparsity: 0.5, epochs: 2}
  - {stage: quantize, epochs: 0}
  - {stage: export}
tune:
  space:
"""
DISTIL = "stages.step 1.5"


def read(*lines, text=TEXT):
    return read_recipe(text + "".join(f"    {line}\n" for line in lines), "r.yaml")


def test_everything_that_is_promised_can_be_searched():
    recipe = read(
        f"{DISTIL}.objectives.0.temperature: {{low: 1, high: 16, log: true}}",
        f"{DISTIL}.objectives.0.weight: {{low: 0.5, high: 2, step: 0.5}}",
        f"{DISTIL}.label_weight: {{low: 0, high: 0.9}}",
        f"{DISTIL}.objectives: [[SoftTargets], [DKD], [SoftTargets, {{objective: DKD, beta: 2}}]]",
        "models.student.arguments.width: {low: 4, high: 16, step: 4}",
        "stages.prune-student.sparsity: {low: 0.25, high: 0.75}",
        "stages.quantize-student.weight_bits: [8, 4]",
        "stages.export-student-int8.precision: [int8, int16x8]",
    )
    assert read_recipe(written(recipe)) == recipe


def test_the_page_shows_a_section_that_reads():
    page = Path(__file__).parents[3] / "docs" / "tune.md"
    (section,) = re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    head, _, _ = TEXT.replace("name: step 1.5", "epochs: 9").partition("tune:")
    recipe = read_recipe(head + section)
    assert len(recipe.tune.space) == 6


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"{DISTIL}.tempature: [1, 2]", "tempature of .* is not there.*Write its value"),
        (f"{DISTIL}.label_wight: [0.1, 0.2]", "Did you mean label_weight"),
        ("stages.step.label_weight: [0.1, 0.2]", "there is no step among the stages"),
        ("stages.prune-studnt.sparsity: [0.5, 0.6]", "Did you mean prune-student"),
        ("modls.student.build: [cnn, mlp]", "begins with models or stages.*Did you mean models"),
        ("data.labels: {low: 0.1, high: 1}", "begins with models or stages"),
        ("models.student: [a, b]", "is a whole"),
        ("models.student.arguments.depth: [1, 2]", "depth of .* is not there: width"),
        (f"{DISTIL}.objectives.1.temperature: [1, 2]", "1 of .* the list has 1 entries"),
        (f"{DISTIL}.objectives.0.beta: [1, 2]", "beta of .* is not there: objective, temperature"),
        (f"{DISTIL}.epochs.more: [1, 2]", "10 stands there, and holds nothing"),
        (f"{DISTIL}.label_weight: {{low: 0, high: 1.5}}", "1.5 gives no recipe"),
        (f"{DISTIL}.label_weight: {{low: 0.2, high: 0.5}}", "own 0.1: take it in"),
        (f"{DISTIL}.label_weight: {{low: 0, high: 1, step: 0.25}}", "own 0.1: take it in"),
        (f"{DISTIL}.label_weight: {{low: 0, high: 1, step: 0.3}}", "in whole steps; got 0.3"),
        (f"{DISTIL}.label_weight: {{low: 0, high: 1, log: true}}", "log needs a low above 0"),
        (f"{DISTIL}.label_weight: {{low: 1, high: 0}}", "low must be less than high"),
        (f"{DISTIL}.label_weight: {{low: 0, hihg: 1}}", "no such key.*Did you mean high"),
        (f"{DISTIL}.label_weight: {{low: 0}}", "high: is missing"),
        (f"{DISTIL}.label_weight: 0.3", "takes {low, high} or a list of choices; got 0.3"),
        (f"{DISTIL}.label_weight: [0.1]", "at least 2 items"),
        (f"{DISTIL}.optimizer: [sgd, nadam]", "own 'adam': add it"),
        (f"{DISTIL}.objectives: [[SoftTargets], SoftTargets]", "gives no recipe"),
        (f"{DISTIL}.objectives.0: [SoftTargets, {{objective: SoftTargets}}]", "stands there twice"),
        (f"{DISTIL}.objectives.0: [SoftTargets, Softy]", "'Softy' gives no recipe"),
        # The ends are right, what lies between is not.
        ("stages.quantize-student.weight_bits: {low: 4, high: 8}", "5 gives no recipe"),
        ("models.student.arguments.width: {low: 4.0, high: .inf}", "takes a number"),
        ("stages.prune-student.sparsity: {low: true, high: 0.6}", "takes a number; got True"),
    ],
)
def test_what_can_not_be_searched_is_told_with_its_line(line, words):
    with pytest.raises(UsageError, match=rf"(?s)^r\.yaml:14: tune\.space.*{words}") as caught:
        read(line)
    assert "Traceback" not in str(caught.value)


def test_a_key_that_only_some_choices_have_is_no_place():
    places = (f"{DISTIL}.objectives.0: [SoftTargets, SimilarityPreserving]",)
    places += (f"{DISTIL}.objectives.0.temperature: {{low: 1, high: 8}}",)
    with pytest.raises(UsageError, match=r"SimilarityPreserving.*no argument temperature"):
        read(*places)


def test_a_search_needs_a_file():
    short = TEXT.replace("  - {stage: export}\n", "")
    with pytest.raises(UsageError, match=r"r\.yaml:11: tune: a search measures files"):
        read("models.student.arguments.width: [8, 4]", text=short)
    named = TEXT.replace("tune:\n", "tune:\n  file: export-student\n")
    with pytest.raises(UsageError, match=r"r\.yaml:13: tune\.file: .*Did you mean export-student-"):
        read("models.student.arguments.width: [8, 4]", text=named)


def test_values_come_to_their_places_and_no_other():
    recipe = read(
        f"{DISTIL}.objectives.0: [SoftTargets, DKD]", "models.student.build: [small_cnn, cnn]"
    )
    places = (f"{DISTIL}.objectives.0.temperature", f"{DISTIL}.objectives.0")
    keys = [find_keys(recipe, place) for place in places]
    assert keys[0] == ("stages", 1, "objectives", 0, "temperature")
    assert value_at(recipe, keys[0]) == 2.0
    # The temperature comes into the objective that comes first, in whatever order.
    other = changed(recipe, {keys[0]: 2.5, keys[1]: "DKD"})
    expected = yaml.safe_load(written(recipe))
    expected["stages"][1]["objectives"] = [{"objective": "DKD", "temperature": 2.5}]
    expected["tune"] = None
    assert yaml.safe_load(written(other)) == expected
