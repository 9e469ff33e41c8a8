"""From a recipe to resumable stages to a report; the command line is its face."""

from keras_distill.training.chain import distill_chain
from keras_distill.training.chain_report import ChainReport, Generation

__all__ = ["ChainReport", "Generation", "distill_chain"]
