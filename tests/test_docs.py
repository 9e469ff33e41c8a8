"""The pages' snippets run from top to bottom, links lead somewhere, no class is missing."""

import inspect
import re
import shlex
from pathlib import Path

import keras
import pytest
import tensorflow as tf
from typer.testing import CliRunner

import keras_distill as kd
from keras_distill.cli import app

ROOT = Path(__file__).parent.parent
PAGES = ["objectives", "schedules", "together"]
GUIDES = ["guides/objective", "guides/temperature", "guides/teacher", "guides/report"]
GUIDES += ["guides/float", "guides/precision", "guides/errors"]
eagerly = pytest.mark.filterwarnings("ignore:Even though the `tf.config")


def snippets(path):
    """The Python snippets of a page."""
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture
def reader(digits, small_cnn, tmp_path, monkeypatch):
    """A folder, and the names that the pages take as given."""
    monkeypatch.chdir(tmp_path)
    # Two batches an epoch: tracing them costs more than they do.
    tf.config.run_functions_eagerly(True)
    models = {"teacher": 8, "student": 4, "small": 3, "medium": 5, "model": 6}
    given = {name: small_cnn(width, seed=width) for name, width in models.items()}
    x, y = digits.x_train[:64], digits.y_train[:64]
    yield {**given, "x": x, "y": y, "x_val": x[:32], "y_val": y[:32]}
    tf.config.run_functions_eagerly(False)


@eagerly
@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs_from_top_to_bottom(page, reader):
    blocks = snippets(ROOT / "docs" / f"{page}.md")
    assert len(blocks) > 3
    exec(compile("\n\n".join(blocks), f"{page}.md", "exec"), reader)


@eagerly
@pytest.mark.parametrize("page", GUIDES)
def test_the_guide_runs_from_top_to_bottom(page, reader):
    run(f"docs/{page}.md", reader)


@pytest.mark.slow
def test_the_quickstart_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run("docs/quickstart.md", {}, short=("epochs=20", "epochs=4"))
    assert names["report"].passed
    figures = names["kd"].judge({k: names[k] for k in ("twin", "narrow")}, names["unseen"])
    assert figures.models == ("twin", "narrow")
    assert names["train"].element_spec[0].shape[1:] == (8, 8, 1)
    # What the guides go on from.
    assert {"student", "teacher", "x", "y", "x_val", "y_val"} <= names.keys()
    assert names["student"].get_layer("low")
    assert names["teacher"].get_layer("high")
    text = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    keras-distill (.* .*)$", text, re.M)
    road = ["distil", "quantize", "distil", "export", "verify"]
    assert [line.split()[0] for line in lines] == road
    # So few images for a training and a verdict: it is the road that is tested.
    lines[0] += " --epochs 1"
    lines[3] += " --overwrite"  # the page's Python has written one
    lines[-1] += " --max-drop 0.2"
    for line in lines:
        done = CliRunner().invoke(app, shlex.split(line))
        assert done.exit_code == 0, (line, done.output)


def residual(seed, blocks=4, width=32):
    """Blocks that can be left out, channels that can be cut; its first layer is "conv1"."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(width, 3, padding="same", activation="relu", name="conv1")(inputs)
    for _ in range(blocks):
        y = keras.layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        x = keras.layers.Add()([x, keras.layers.Conv2D(width, 3, padding="same")(y)])
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10, name="logits")(x))


def run(page, reader, **changes):
    """All of a page's snippets, one after the other; `changes` by what is written there."""
    text = "\n\n".join(snippets(ROOT / page))
    for written, instead in changes.values():
        assert written in text
        text = text.replace(written, instead)
    names = {**reader, "keras": keras, "kd": kd}
    exec(compile(text, page, "exec"), names)
    return names


@eagerly
def test_the_readme_runs_from_top_to_bottom(reader):
    names = run("README.md", reader, short=("epochs=10", "epochs=1"))
    assert names["report"].passed


@eagerly
def test_the_page_on_explaining_runs(reader):
    sizes = [
        keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
        for _ in "ab"
    ]
    given = {"sizes": sizes[0], "sizes_teacher": sizes[1], "lengths": reader["y_val"] * 1.0}
    names = run("docs/explain.md", {**reader, **given, "names": list("0123456789")})
    assert names["hints"]
    assert Path("explained/explanation.json").exists()


@eagerly
def test_the_page_on_judging_runs(reader):
    names = run("docs/judge.md", reader)
    assert len(names["conditions"]) == 41
    assert Path("judged.html").exists()
    assert names["check"].words.endswith("demanded")


@eagerly
def test_the_page_on_what_pays_runs(reader):
    names = run("docs/pays.md", reader)
    # Two epochs of two batches.
    assert int(names["distiller"].optimizer.iterations) == 4


@eagerly
def test_the_page_on_transfer_runs(reader):
    data = tf.data.Dataset.from_tensor_slices((reader["x"], reader["y"])).batch(32)
    tokens = keras.Sequential([keras.Input((4,)), keras.layers.Embedding(9, 3, name="tokens")])
    student = keras.Sequential([keras.Input((4,)), keras.layers.Embedding(9, 3, name="embed")])
    wrapped = keras.Sequential(
        [keras.Input((4,)), keras.Sequential(tokens.layers, name="backbone")]
    )
    names = run(
        "docs/transfer.md",
        {
            **reader,
            "teacher": residual(1),
            "train": data,
            "wrapped": wrapped,
            "own": student,
            "alike": residual(2),
        },
        alike=("(teacher, student, freeze", "(teacher, alike, freeze"),
        names=('(teacher, student, {"embed"', '(wrapped, own, {"embed"'),
        fit=("distiller.fit(", "distiller.compile('adam'); distiller.fit("),
    )
    assert len(names["report"].rows) > 3


@eagerly
def test_the_page_on_edge_runs(reader):
    (block,) = [b for b in snippets(ROOT / "docs" / "edge.md") if "kd.edge.prune(" in b]
    # Between the lines a user trains; where that is left out, ranges are those of calibration.
    names = dict(reader)
    exec(compile(block, "edge.md", "exec"), names)
    assert names["report"].passed


@pytest.mark.slow
def test_the_part_on_tfmot_runs(digits, small_cnn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = [b for b in snippets(ROOT / "docs" / "edge.md") if "legacy.tfmot()" in b]
    student = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, strides=2, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    x, y = digits.x_train[:64], digits.y_train[:64]
    names = {"teacher": small_cnn(8), "student": student, "x": x, "y": y}
    exec(compile(block, "edge.md", "exec"), names)
    # Four updates of the schedule's four; BatchNorm's and biases' numbers are not pruned.
    assert kd.edge.sparsity_report(names["pruned"]).sparsity == 0.5
    assert names["export"].sparsity > 0.4
    assert names["export"].float_ops == {}


def test_every_objective_and_schedule_has_its_line():
    objectives = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \|", objectives, re.M)
    kinds = [kind for kind in vars(kd.objectives).values() if inspect.isclass(kind)]
    final = [k.__name__ for k in kinds if issubclass(k, kd.Objective) and k is not kd.Objective]
    assert sorted(listed) == sorted(final)
    schedules = (ROOT / "docs" / "schedules.md").read_text(encoding="utf-8")
    kinds = {name for name, found in vars(kd.schedules).items() if inspect.isclass(found)}
    rows = set(re.findall(r"^\| `(\w+)\(", schedules, re.M))
    assert rows == kinds - {"Schedule", "Balance"}  # the bases


@pytest.mark.parametrize(
    "name", ["README.md", *(f"docs/{page}.md" for page in (*PAGES, "pays", "notebooks"))]
)
def test_links_lead_somewhere(name):
    page = ROOT / name
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_page_on_recipes_says_what_is_read(tmp_path, monkeypatch):
    from keras_distill.pipeline.recipes import Recipe, read_recipe

    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    whole, *parts = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
    recipe = read_recipe(whole)
    assert recipe.models.keys() == {"teacher", "student"}
    # What is a part of a stage stands in one.
    for part in parts:
        inside = "\n".join(f"    {line}" for line in part.splitlines())
        read_recipe(f"{whole}  - stage: distil\n    name: another\n{inside}\n")
    schema = Recipe.model_json_schema()
    kinds = set(schema["properties"]["stages"]["items"]["discriminator"]["mapping"])
    told = re.search(r"^\| stage .*?\n\n", page, re.M | re.S)[0]
    assert kinds == set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|[^|]*\|", told, re.M))))
    names = run("docs/recipes.md", {})
    assert "after 2 epochs" in names["record"]["stages"]["distil-student"]["outcome"]
