"""A recipe's errors: file, line, key, what is allowed, the nearest spelling; and nothing is run."""

import os

import numpy as np
import pytest

from keras_distill.pipeline.recipes import SHIPPED, load_recipe, read_recipe, shipped_text
from keras_distill.pipeline.recipes.reading import written
from keras_distill.pipeline.recipes.sources import Data
from keras_distill.pipeline.runs.examples import inside, load_examples
from keras_distill.training.stages import UsageError

WHOLE = """\
name: small
data:
  set: digits
  labels: 0.1
models:
  teacher: {build: cnn}
  student: {build: small_cnn, arguments: {width: 4}}
stages:
  - stage: train
    model: teacher
    epochs: 3
  - stage: distil
    objectives: [SoftTargets]
    label_weight: 0.1
  - stage: export
    precision: int8
"""


def test_the_whole_one_reads():
    assert [one.title for one in read_recipe(WHOLE).stages] == [
        "train-teacher",
        "distil-student",
        "export-student-int8",
    ]


@pytest.mark.parametrize(
    ("there", "instead", "line", "words"),
    [
        ("labels: 0.1", "lables: 0.1", 4, ["data.lables", "allowed: set", "Did you mean labels?"]),
        ("set: digits", "set: digit", 3, ["data.set", "fashion_mnist", "Did you mean digits?"]),
        ("epochs: 3", "epoch: 3", 11, ["stages[0].epoch", "batch_size", "Did you mean epochs?"]),
        ("stage: distil", "stage: distill", 12, ["stages[1]", "quantize", "Did you mean distil?"]),
        ("epochs: 3", "epochs: many", 11, ["stages[0].epochs", "integer", "'many'"]),
        ("epochs: 3", "epochs: 0", 11, ["stages[0].epochs", "greater than or equal to 1"]),
        ("labels: 0.1", "labels: .nan", 4, ["data.labels"]),
        ("build: cnn", "build: cmm", 6, ["models.teacher", "build takes", "small_cnn"]),
        ("precision: int8", "precision: int9", 16, ["stages[2].precision", "Did you mean int8?"]),
        ("model: teacher", "model: techer", 10, ["stages[0].model", "Did you mean teacher?"]),
        (
            "[SoftTargets]",
            "[SoftTarget]",
            13,
            ["objectives[0]", "DKD", "Did you mean SoftTargets?"],
        ),
        (
            "[SoftTargets]",
            "[{objective: DKD, betta: 2}]",
            13,
            ["objectives[0]", "no argument betta", "alpha, beta"],
        ),
        (
            "label_weight: 0.1",
            "label_weight: {schedule: Linear, start: 1, end: 0}",
            14,
            ["label_weight", "Linear needs steps"],
        ),
        ("name: small", "name: ../small", 1, ["name", "'../small' is no name"]),
        ("name: small", "nome: small", 1, ["nome", "Did you mean name?"]),
        ("stage: export", "stage: verify", 16, ["stages[2].precision", "no such key"]),
        ("name: small", "name: [a", 2, ["no YAML"]),
        ("name: small", "name: &a small\nseed: *a", 2, ["anchors and aliases"]),
        ("name: small", "name: small\nname: other", 2, ["the key name stands here twice"]),
        ("set: digits", "set: !!python/object/apply:os.system [x]", 3, ["asks for an object"]),
        ("set: digits", "set: !mine digits", 3, ["asks for an object"]),
        ("set: digits", "set: digits\n  <<: {rows: 20}", 4, ["a key is a word"]),
    ],
)
def test_a_fault_is_said_with_its_line(there, instead, line, words):
    assert WHOLE.count(there) == 1
    with pytest.raises(UsageError) as caught:
        read_recipe(WHOLE.replace(there, instead, 1), "r.yaml")
    faults = [one for one in str(caught.value).splitlines() if one.startswith(f"r.yaml:{line}: ")]
    assert any(all(word in fault for word in words) for fault in faults), str(caught.value)


def test_several_faults_are_said_at_once_a_line_each():
    broken = WHOLE.replace("labels:", "lables:").replace("epochs:", "epoch:")
    with pytest.raises(UsageError) as caught:
        read_recipe(broken, "r.yaml")
    assert [one.split(": ")[0] for one in str(caught.value).splitlines()] == [
        "r.yaml:4",
        "r.yaml:11",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "just words",
        "a: " + "[" * 30 + "]" * 30,
        "a: " + "[" * 5000,
        "# " + "x" * 2_000_000,
    ],
    ids=["empty", "list", "words", "deep", "very deep", "long"],
)
def test_what_is_no_recipe_costs_a_line(text):
    with pytest.raises(UsageError) as caught:
        read_recipe(text, "r.yaml")
    assert str(caught.value).startswith("r.yaml")
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ("  - stage: calibrate\n", "needs a stage quantize of student before it"),
        ("  - stage: distil\n    name: two\n    cache: none\n", "no stage cache of that name"),
        ("  - stage: distil\n", "a second stage is called distil-student"),
        ("  - stage: verify\n    file: none\n", "no file is exported before it"),
        ("  - stage: prune\n", "sparsity is for the pattern unstructured, which needs it"),
        ("  - stage: verify\n    model: teacher\n", "no file is exported before it"),
    ],
)
def test_stages_that_do_not_hang_together(after, words):
    with pytest.raises(UsageError, match=words):
        read_recipe(WHOLE + after)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_is_whole_and_reads_again_as_written(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert read_recipe(written(recipe)) == recipe
    assert read_recipe(written(recipe.for_smoke())) == recipe.for_smoke()


def test_all_that_were_promised_are_shipped():
    assert set(SHIPPED) == {
        "tiny",
        "mobile-int8",
        "sparse-int8",
        "patient-teacher",
        "assistant-chain",
        "self-distil",
        "low-resolution",
        "unlabelled",
        "keyword-spotting",
    }
    kinds = {stage.stage for name in SHIPPED for stage in load_recipe(name).stages}
    assert kinds >= {"cache", "transfer", "shrink", "prune", "cluster", "calibrate", "reconstruct"}


def test_1e_3_is_a_number_and_no_is_a_word():
    text = WHOLE.replace("epochs: 3", "learning_rate: 1e-3").replace("name: small", "name: no")
    assert read_recipe(text).stages[0].learning_rate == 1e-3
    assert read_recipe(text).name == "no"


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside.npz", "link/outside.npz"])
def test_a_path_out_of_the_data_folder_is_refused(path, tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_DISTILL_DATA", raising=False)
    folder = tmp_path / "data"
    folder.mkdir()
    np.savez(tmp_path / "outside.npz", x=np.zeros((20, 2)), y=np.zeros(20, int))
    os.symlink(tmp_path, folder / "link")
    with pytest.raises(UsageError, match="leads out of"):
        inside(path, "data.npz", folder)
    with pytest.raises(UsageError, match="leads out of"):
        load_examples(Data(npz=path), 0, folder)


def test_tables_and_arrays_become_the_same_examples(tmp_path):
    x = np.arange(200, dtype=np.float32).reshape(100, 2)
    y = np.arange(100) % 3
    np.savez(tmp_path / "a.npz", x=x, y=y)
    lines = ["first,class,second", *(f"{a},{c},{b}" for (a, b), c in zip(x, y, strict=True))]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    of_npz = load_examples(Data(npz="a.npz"), 0, tmp_path)
    of_csv = load_examples(Data(csv="a.csv", label="class"), 0, tmp_path)
    for ours, theirs in zip(of_npz.parts(), of_csv.parts(), strict=True):
        np.testing.assert_array_equal(ours.x, theirs.x)
        np.testing.assert_array_equal(ours.y, theirs.y)
    # Every row is in one part, whatever the seed.
    rows = np.concatenate([part.x for part in of_npz.parts()])
    np.testing.assert_array_equal(np.sort(rows[:, 0]), x[:, 0])
    assert [len(part) for part in of_npz.parts()] == [70, 15, 15]
    other = load_examples(Data(npz="a.npz"), 1, tmp_path)
    np.testing.assert_array_equal(other.test.x, of_npz.test.x)


def test_a_word_among_numbers_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\nred,3\n")
    with pytest.raises(UsageError, match=r"line 3 of a\.csv has 'red' in a"):
        load_examples(Data(csv="a.csv", label="b"), 0, tmp_path)


def test_pickled_objects_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object), y=np.zeros(1))
    with pytest.raises(UsageError, match="can't be had"):
        load_examples(Data(npz="a.npz"), 0, tmp_path)


def test_known_labels_are_a_part_of_each_class():
    examples = load_examples(Data(set="digits", labels=0.1), 0, None)
    for value in range(10):
        rows = examples.train.y == value
        assert (examples.known[rows] == value).sum() == round(0.1 * rows.sum())
        assert set(examples.known[rows]) == {-1, value}


def test_the_text_of_a_shipped_recipe_is_what_is_read():
    assert read_recipe(shipped_text("tiny")) == load_recipe("tiny")


def test_words_are_classes_with_names_and_an_empty_one_is_named(tmp_path):
    rows = [f"{i},{'cat' if i % 2 else 'dog'}" for i in range(40)]
    (tmp_path / "a.csv").write_text("\n".join(["a,kind", *rows]))
    examples = load_examples(Data(csv="a.csv", label="kind"), 0, tmp_path)
    assert examples.class_names == ("cat", "dog")
    np.testing.assert_array_equal(examples.test.y, 1 - examples.test.x[:, 0] % 2)
    (tmp_path / "a.csv").write_text("\n".join(["a,kind", *rows, "3,"]))
    with pytest.raises(UsageError, match=r"line 42 of a\.csv has no kind"):
        load_examples(Data(csv="a.csv", label="kind"), 0, tmp_path)
