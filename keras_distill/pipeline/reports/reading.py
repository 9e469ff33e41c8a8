"""A report from its JSON."""

from typing import Any

__all__ = ["report_of"]


def report_of(values: Any, where: str) -> Any:
    """The `RunReport` that JSON holds.

    Args:
      values: what was read.
      where: it came from, for the error.

    Raises:
      ValueError: it is no report.
    """
    from pydantic import TypeAdapter, ValidationError

    from keras_distill.pipeline.reports.record import RunReport

    try:
        return TypeAdapter(RunReport).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{where} must be the JSON of a run's report, and its {place or 'content'} can't be "
            f"read: {first['msg']}. Have the run write it again."
        ) from error
