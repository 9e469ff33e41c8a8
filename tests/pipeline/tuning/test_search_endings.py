"""What a search leaves: table, record, picture, recipes, and the best within a budget."""

import io
import json

import matplotlib.image
import pytest
from rich.console import Console

from keras_distill.pipeline.recipes.reading import load_recipe
from keras_distill.pipeline.runs.workshop import Workshop
from keras_distill.pipeline.tuning.ending import end
from keras_distill.pipeline.tuning.front import Budget
from keras_distill.pipeline.tuning.request import Request
from keras_distill.pipeline.tuning.trial import Trials

WIDTH = "models.student.arguments.width"


@pytest.fixture
def ended(opened, space, search, tmp_path):
    """Four trials, and what is said of them: `ended(budget)`."""
    with opened(url="sqlite://") as study:
        search(study, 4)
        shop = Workshop(space.recipe, tmp_path, tmp_path)
        trials = Trials(space, shop, tmp_path / "trials", True, "c")

        def say(budget=None):
            stream = io.StringIO()
            request = Request(
                recipe="small.yaml", output=tmp_path, budget=budget or Budget(), command="c"
            )
            fits = end(request, study, trials, Console(file=stream, width=200))
            return fits, stream.getvalue(), study.points()

        yield say


def test_each_point_of_the_front_has_its_recipe_and_no_other(ended, tmp_path, space):
    (tmp_path / "pareto").mkdir()
    (tmp_path / "pareto" / "99.yaml").write_text("of an earlier front")
    fits, text, points = ended()
    assert fits
    # The wider, the better and the larger and the slower: equal widths aside, no point is beaten.
    files = {int(file.stem): file for file in (tmp_path / "pareto").iterdir()}
    assert sorted(files) == [point.trial for point in points]
    for point in points:
        recipe = load_recipe(files[point.trial])
        assert recipe.models["student"].arguments["width"] == point.values[WIDTH]
        assert recipe.stages[1].learning_rate == pytest.approx(list(point.values.values())[1])
        assert recipe.tune is None
        head = files[point.trial].read_text().splitlines()[1]
        assert head.startswith(f"# keras-distill run {files[point.trial]} --data-folder")
        assert head.endswith(" --smoke")
    assert not (tmp_path / "best.yaml").exists()
    record = json.loads((tmp_path / "tune.json").read_text())
    assert [point["on_front"] for point in record["points"]] == [True] * 4
    # No file of theirs is here: nothing was measured on the test data.
    assert {point["quality_test"] for point in record["points"]} == {None}
    assert "Test figures" not in text
    assert matplotlib.image.imread(tmp_path / "pareto.png").shape[:2] == (528, 1200)
    assert "0 (recipe's own)" in text


def test_the_best_within_a_budget_is_named_and_written(ended, tmp_path):
    _, _, points = ended()
    widths = sorted((point.values[WIDTH], point.trial) for point in points)
    # Bytes are a hundred times the width.
    fits, text, _ = ended(Budget(bytes=100 * widths[-2][0]))
    assert fits
    assert f"is trial {widths[-2][1]}: " in text
    best = load_recipe(tmp_path / "best.yaml")
    assert best.models["student"].arguments["width"] == widths[-2][0]
    assert json.loads((tmp_path / "tune.json").read_text())["best"] == widths[-2][1]


def test_when_nothing_fits_the_nearest_is_told(ended, tmp_path):
    ended(Budget(bytes=5000))
    assert (tmp_path / "best.yaml").exists()
    _, _, points = ended()
    assert not (tmp_path / "best.yaml").exists()
    least = min(points, key=lambda point: point.bytes)
    fits, text, _ = ended(Budget(bytes=least.bytes // 2))
    assert not fits
    assert f"The nearest is trial {least.trial}: " in text
    assert ", 100% over." in text
    assert not (tmp_path / "best.yaml").exists()
