"""Recipes: what is to be made of which data and models, as a file that a person can read."""

from keras_distill.pipeline.recipes.reading import load_recipe, read_recipe
from keras_distill.pipeline.recipes.recipe import Recipe
from keras_distill.pipeline.recipes.shipped import SHIPPED, shipped_text

__all__ = ["SHIPPED", "Recipe", "load_recipe", "read_recipe", "shipped_text"]
