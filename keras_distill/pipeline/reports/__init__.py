"""A run's report: what was made, measured alike, in words, as a page, as Markdown and as JSON."""

from keras_distill.pipeline.reports.made import Facts, Made
from keras_distill.pipeline.reports.measuring import measure
from keras_distill.pipeline.reports.record import RunReport

__all__ = ["Facts", "Made", "RunReport", "measure"]
