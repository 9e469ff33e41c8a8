"""One trial: the recipe with other values, run as far as the file that is measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from keras_distill.pipeline.recipes.recipe import Recipe
from keras_distill.pipeline.runs.deciding import digest
from keras_distill.pipeline.runs.run import Run
from keras_distill.pipeline.runs.running import batches_of
from keras_distill.pipeline.runs.watching import Watch
from keras_distill.pipeline.runs.workshop import Workshop, tflite_name
from keras_distill.pipeline.tuning.sharing import begin
from keras_distill.pipeline.tuning.space import Space

__all__ = ["Trials"]

# A stage that took longer has its own line.
LONG_S = 20.0


@dataclass(frozen=True)
class Trials:
    """Where trials run.

    Args:
      space: what is changed.
      shop: of the recipe itself, whose data all trials share.
      folder: that holds a folder for each set of values, so that a trial asked for again goes on.
      smoke: whether the recipe is made small.
      command: for the runs' records.
    """

    space: Space
    shop: Workshop
    folder: Path
    smoke: bool
    command: str

    def recipe(self, values: Mapping[str, Any]) -> Recipe:
        """The whole recipe of a trial.

        Raises:
          ValueError: see `Space.recipe_of`.
        """
        return self.space.recipe_of(values)

    def file(self, values: Mapping[str, Any], console: Console) -> Path:
        """Make a trial's file, or as much of it as is not there yet.

        Args:
          values: of the trial.
          console: to draw the progress on.

        Raises:
          UsageError: a stage can't be done.
          ValueError: see `Space.recipe_of`.
        """
        shop, file = self._workshop(values)
        begin(shop.folder, shop.recipe, [one for one in self.folder.iterdir() if one.is_dir()])
        # Each trial builds new models; those before it are of no use any more.
        keras.utils.clear_session()
        run = Run(shop, self.command)
        watch = Watch(console, run.steps, batches_of(shop))
        with run.opened():
            running = [one for one, why in run.reasons().items() if why is not None]
            with watch.watching(running):
                for done in run.go(heard=watch.heard):
                    watch.finished(done.step.title)
                    if done.why is not None and done.seconds > LONG_S:
                        seconds = f"{done.seconds:.0f} s"
                        console.print(f"  {done.step.title}: {done.outcome}, {seconds}")
        return file

    def finished(self, values: Mapping[str, Any]) -> Path | None:
        """A trial's file, if it is here just as it would be made now; nothing is made."""
        shop, file = self._workshop(values)
        if not shop.folder.is_dir():
            return None
        run = Run(shop, self.command)
        with run.read():
            return None if any(run.reasons().values()) else file

    def _workshop(self, values: Mapping[str, Any]) -> tuple[Workshop, Path]:
        """Of a trial's run, and the file that it ends in."""
        whole = self.recipe(values)
        recipe, title = self.space.short_of(whole.for_smoke() if self.smoke else whole)
        folder = self.folder / digest(dict(values))[:12]
        shop = Workshop(recipe, folder, self.shop.root, self.shop.allowed)
        # No place in the data can be searched: they are read once.
        vars(shop)["examples"] = self.shop.examples
        stage = next(one for one in recipe.stages if one.title == title)
        return shop, folder / title / tflite_name(stage)
