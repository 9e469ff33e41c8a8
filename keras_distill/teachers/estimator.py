"""A fitted scikit-learn estimator as a teacher."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_distill.teachers import identity
from keras_distill.teachers.model import Model

__all__ = ["Estimator"]


class Estimator(Model):
    """A fitted estimator that teaches: scikit-learn's, and others with its methods.

    | estimator | answers |
    | --- | --- |
    | a classifier | `predict_proba`, a column a class |
    | one of two classes, with `output="sigmoid"` | the second class' probability, one column |
    | a multi-label classifier | the probability of yes, a column a label |
    | a regressor | `predict`, a column a number |

    Column j is the class `estimator.classes_[j]`; the student's labels are these places, as
    `np.searchsorted(estimator.classes_, y)` makes them of the data's. Whole numbers are taken as
    they are, and must be 0, 1, 2, ... for that.

    It answers in Python and in float64, outside of TensorFlow's graph: a `TeacherCache` asks it
    once, not in every epoch. A forest's probabilities have zeros; these are taken as 1.2e-38.

    Args:
      estimator: fitted on rows of numbers, `(rows, features)`. One fitted on a pandas DataFrame is
        asked with one, of the same columns.
      output: "sigmoid" for a student with one unit that says yes or no; "auto" else.
      input_spec: a `keras.KerasTensor` of what it takes, for an estimator that does not know its
        number of features, as of texts: `keras.KerasTensor((None,), dtype="string")`.

    Raises:
      TypeError: no classifier and no regressor.
      ValueError: it is not fitted, gives no probabilities, its classes are no class numbers.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> x, y = np.array([[0.0], [1.0], [2.0]]), [0, 1, 2]
    >>> teacher = Estimator(DecisionTreeClassifier().fit(x, y))
    >>> teacher.prepare(None, ()).logits.shape
    (None, 3)
    """

    def __init__(self, estimator: Any, *, output: str = "auto", input_spec: Any = None):
        if output not in ("auto", "sigmoid"):
            raise ValueError(f"Expected output='auto' or 'sigmoid'; got {output!r}.")
        if input_spec is None:
            input_spec = keras.KerasTensor((None, _features(estimator)))
        asked, kind = _asked(estimator, output)
        self.estimator = estimator

        def answer(x: Any) -> np.ndarray:
            return asked(_as_fitted(estimator, np.asarray(x))).astype("float32")

        super().__init__(answer, output=kind, input_spec=input_spec)

    def __repr__(self) -> str:
        return f"teachers.Estimator({type(self.estimator).__name__})"

    def fingerprint(self) -> str:
        return identity.of_state(self.estimator)

    def _digest(self, reader: Any, graph: Any) -> str:
        return identity.digest([self.fingerprint(), *reader.kinds.values()])


def _features(estimator: Any) -> int:
    found = getattr(estimator, "n_features_in_", None)
    if found is None:
        raise ValueError(
            f"Expected a fitted estimator; {type(estimator).__name__} does not say how many "
            f"features it takes. Fit it first; of one that can't say, tell what it takes: "
            f"input_spec=keras.KerasTensor(shape)."
        )
    return found


def _asked(estimator: Any, output: str) -> tuple[Callable[[Any], np.ndarray], str]:
    """What answers to a batch, `(batch, columns)`, and the kind of its answers."""
    name, classes = type(estimator).__name__, getattr(estimator, "classes_", None)
    if classes is None:
        if not _is_regressor(estimator):
            raise TypeError(f"Expected a classifier or a regressor; got {name}.")
        if output == "sigmoid":
            raise ValueError(f"output='sigmoid' is for two classes; {name} has none.")
        return lambda x: _columns(estimator.predict(x)), "logits"
    if not hasattr(estimator, "predict_proba"):
        raise ValueError(
            f"{name} gives no probabilities, and its scores are no logits. Fit "
            f"sklearn.calibration.CalibratedClassifierCV({name}(...)) in its place."
        )
    if isinstance(classes, list):
        return _yes_of_each(estimator, classes), "sigmoid"
    if getattr(estimator, "multilabel_", False):
        return estimator.predict_proba, "sigmoid"
    _check_numbered(name, np.asarray(classes))
    if output == "auto":
        return estimator.predict_proba, "probabilities"
    if len(classes) != 2:
        raise ValueError(f"output='sigmoid' is for two classes; {name} has {len(classes)}.")
    return lambda x: estimator.predict_proba(x)[:, 1:], "sigmoid"


def _is_regressor(estimator: Any) -> bool:
    from sklearn.base import is_regressor

    return hasattr(estimator, "predict") and is_regressor(estimator)


def _columns(numbers: Any) -> np.ndarray:
    return np.reshape(numbers, (len(numbers), -1))


def _yes_of_each(estimator: Any, classes: list) -> Callable[[Any], np.ndarray]:
    if any(len(each) != 2 for each in classes):
        raise ValueError(
            f"{type(estimator).__name__} answers several questions, with {list(map(len, classes))} "
            f"classes; labels of yes and no, two each, are one head. For others fit one estimator "
            f"an output: keras_distill.teachers.MultiTask({{name: Estimator(...), ...}})."
        )
    return lambda x: np.stack([each[:, 1] for each in estimator.predict_proba(x)], axis=1)


def _check_numbered(name: str, classes: np.ndarray) -> None:
    if classes.dtype.kind in "iuf" and not np.array_equal(classes, np.arange(len(classes))):
        raise ValueError(
            f"{name} was fitted on the classes {', '.join(map(str, classes[:8]))}"
            f"{', ...' if len(classes) > 8 else ''}, and a student's class numbers are 0 to "
            f"{len(classes) - 1}. Fit it on np.unique(y, return_inverse=True)[1], and train the "
            f"student on the same."
        )


def _as_fitted(estimator: Any, x: np.ndarray) -> Any:
    """With the names of its columns, where it was fitted on a table."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None or x.ndim != 2:
        return x
    import pandas

    return pandas.DataFrame(x, columns=names)
