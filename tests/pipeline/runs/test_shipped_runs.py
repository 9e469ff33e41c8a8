"""Every shipped recipe finishes on its smoke data; batches depend on seed and epoch alone."""

from pathlib import Path

import numpy as np
import pytest

from keras_distill.pipeline.recipes import SHIPPED, load_recipe
from keras_distill.pipeline.recipes.stages import Augment
from keras_distill.pipeline.runs.batches import Batches
from keras_distill.pipeline.runs.run import Run
from keras_distill.pipeline.runs.workshop import Workshop


# tiny is the demo, which has tests of its own.
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "tiny"])
def test_a_shipped_recipe_finishes_on_its_smoke_data(name, tmp_path):
    recipe = load_recipe(name).for_smoke()
    run = Run(Workshop(recipe, tmp_path / "run", Path.cwd()), "")
    with run.opened():
        done = list(run.go())
    assert [one.step.title for one in done] == [stage.title for stage in recipe.stages]
    for one in done:
        files = list((tmp_path / "run" / one.step.title).iterdir())
        assert files
        assert one.step.stage.stage != "verify" or one.outcome


def all_of(batches):
    return [batches[i] for i in range(len(batches))]


@pytest.mark.parametrize(
    "augment", [Augment(), Augment(shift=1, flip=True, noise=0.1), Augment(mixup=1.0)]
)
def test_an_epoch_is_the_same_wherever_one_begins(augment):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(10, 4, 4, 1)).astype("float32"), np.arange(10)
    options = {"batch_size": 4, "steps": 5, "seed": 3, "augment": augment}
    through = Batches(x, y, **options)
    for _ in range(2):
        through.on_epoch_end()
    at_once = Batches(x, y, **options, epoch=2)
    for (x1, y1), (x2, y2) in zip(all_of(through), all_of(at_once), strict=True):
        np.testing.assert_array_equal(x1, x2)
        np.testing.assert_array_equal(y1, y2)
    other = Batches(x, y, **(options | {"seed": 4}), epoch=2)
    assert not np.array_equal(all_of(other)[0][0], all_of(at_once)[0][0])


def test_every_example_comes_once_before_any_comes_again():
    batches = Batches(np.arange(10), np.arange(10), batch_size=4, steps=3, seed=0)
    seen = np.concatenate([x for x, _ in all_of(batches)])
    batches.on_epoch_end()
    seen = np.concatenate([seen, *(x for x, _ in all_of(batches))])
    assert len(seen) == 24
    for begin in (0, 10):
        assert sorted(seen[begin : begin + 10]) == list(range(10))


def test_views_are_what_they_say():
    x = np.arange(32, dtype="float32").reshape(2, 4, 4, 1) + 1
    flipped, _ = Batches(x, np.zeros(2), batch_size=2, steps=1, seed=0, augment=Augment(flip=True))[
        0
    ]
    for view in flipped:
        assert any(np.array_equal(view, one) or np.array_equal(view, one[:, ::-1]) for one in x)
    moved, _ = Batches(x, np.zeros(2), batch_size=2, steps=1, seed=0, augment=Augment(shift=1))[0]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = [one[i : i + 4, j : j + 4] for one in padded for i in range(3) for j in range(3)]
    assert all(any(np.array_equal(view, window) for window in windows) for view in moved)
    mixed, labels = Batches(
        x, np.zeros(2, int), batch_size=2, steps=1, seed=0, augment=Augment(mixup=1.0)
    )[0]
    assert set(labels) == {-1}
    assert mixed.min() >= x.min()
    assert mixed.max() <= x.max()
