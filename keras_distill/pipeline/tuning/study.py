"""A study of Optuna's: opened, checked like any input, and gone on with after a kill."""

import contextlib
import datetime
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keras_distill._extras import install_hint
from keras_distill.pipeline.inputs import one_line
from keras_distill.pipeline.runs.deciding import digest
from keras_distill.pipeline.tuning.measuring import Measured
from keras_distill.pipeline.tuning.record import TunePoint
from keras_distill.pipeline.tuning.space import Space
from keras_distill.training.stages import UsageError

__all__ = ["Study", "opened"]

IDENTITY, WORKER, INSTEAD_OF = "keras_distill", "worker", "instead_of"
# Storages that keep JSON in columns, or in lines; Optuna's for Redis reads pickles back.
SCHEMES = ("sqlite", "mysql", "mariadb", "postgresql")
JOURNAL = "journal:"
# From its creation to its worker's name a trial is this old at most.
NAMELESS_S = 60.0


@dataclass(frozen=True)
class Study:
    """One search, which several machines may share.

    Args:
      space: see there.
      metric: see `TunePoint`.
      seed: of what is drawn.
      worker: who runs the trials of this call; another call of the same folder has the same name.
      inner: Optuna's own.
    """

    space: Space
    metric: str
    seed: int
    worker: str
    inner: Any

    def trials(self) -> list[Any]:
        """All of them that count: not those that a kill ended and others took the place of.

        Raises:
          UsageError: the study holds what the recipe does not allow.
        """
        found = _asked(self.inner.get_trials, deepcopy=False)
        for trial in found:
            self._check(trial)
        replaced = _replaced(found)
        return [
            trial
            for trial in found
            if trial.state.name != "WAITING"
            and not (trial.state.name == "FAIL" and trial.number in replaced)
        ]

    def points(self) -> list[TunePoint]:
        """The finished trials."""
        return [self._point(one) for one in self.trials() if one.state.name == "COMPLETE"]

    def failed(self) -> int:
        """How many gave no file."""
        return sum(one.state.name == "FAIL" for one in self.trials())

    def take_up(self) -> int:
        """End the trials that a kill of this worker left, and ask for them again; their number."""
        trials = _asked(self.inner.get_trials, deepcopy=False)
        left = [one for one in trials if one.state.name == "RUNNING" and self._is_left(one)]
        for trial in left:
            if trial.number not in _replaced(trials):
                attributes = {INSTEAD_OF: trial.number}
                _asked(self.inner.enqueue_trial, dict(trial.params), user_attrs=attributes)
            self.fail(trial)
        return len(left)

    def ask(self) -> tuple[Any, dict[str, Any]]:
        """The next trial, and the recipe's values by place.

        What is drawn depends on the seed, on how many trials there are and on their figures alone,
        so that a study gone on with draws as one that was never stopped.

        Raises:
          UsageError: see `trials`.
        """
        from optuna.samplers import TPESampler

        count = len(self.trials())
        if not count:
            first = {one.place: one.first for one in self.space.parameters}
            _asked(self.inner.enqueue_trial, first, skip_if_exists=True)
        self.inner.sampler = TPESampler(seed=int(digest([self.seed, count])[:8], 16))
        drawn = {one.place: one.distribution() for one in self.space.parameters}
        trial = _asked(self.inner.ask, drawn)
        _asked(trial.set_user_attr, WORKER, self.worker)
        try:
            return trial, self.space.drawn(trial.params)
        except ValueError as error:
            self.fail(trial)
            raise self._strange(trial, error) from error

    def tell(self, trial: Any, found: Measured, seconds: float) -> None:
        """A trial is finished."""
        facts = {
            "latency_low_ms": found.latency_low_ms,
            "latency_high_ms": found.latency_high_ms,
            "seconds": round(seconds, 3),
            "host": found.host,
        }
        for key, value in facts.items():
            _asked(trial.set_user_attr, key, value)
        figures = [found.quality, float(found.bytes), found.latency_ms]
        _asked(self.inner.tell, trial.number, figures)

    def fail(self, trial: Any) -> None:
        """A trial gives no file."""
        from optuna.trial import TrialState

        _asked(self.inner.tell, trial.number, state=TrialState.FAIL)

    def _is_left(self, trial: Any) -> bool:
        worker = trial.user_attrs.get(WORKER)
        if worker is None and trial.datetime_start is not None:
            age = datetime.datetime.now() - trial.datetime_start
            return age.total_seconds() > NAMELESS_S
        return worker == self.worker

    def _check(self, trial: Any) -> None:
        # What is asked for and not begun is checked when it is drawn.
        try:
            if trial.state.name == "COMPLETE":
                self.space.drawn(trial.params)
                self._point(trial)
            else:
                for place, value in trial.params.items():
                    self.space.drawn_at(place, value)
        except (ValueError, LookupError, TypeError) as error:
            # A trial that was refused once is over.
            if trial.state.name != "FAIL":
                raise self._strange(trial, error) from error

    def _point(self, trial: Any) -> TunePoint:
        quality, size, latency = trial.values
        facts = trial.user_attrs
        names = ("latency_low_ms", "latency_high_ms", "seconds")
        times = (latency, *(facts[name] for name in names))
        if not all(math.isfinite(one) and one >= 0 for one in (size, *times)) or size % 1:
            raise ValueError(f"bytes and times that are none: {size}, {list(times)}")
        if not math.isfinite(quality):
            raise ValueError(f"a figure that is none: {quality}")
        return TunePoint(
            trial.number,
            self.space.drawn(trial.params),
            metric=self.metric,
            quality_validation=float(quality),
            bytes=int(size),
            latency_p50_ms=times[0],
            latency_low_ms=times[1],
            latency_high_ms=times[2],
            seconds=times[3],
            host=str(facts["host"]),
        )

    def _strange(self, trial: Any, error: Exception) -> UsageError:
        return UsageError(
            f"trial {trial.number} of the study {self.inner.study_name} holds {one_line(error)}. "
            f"Who else writes to it? Begin another with --study."
        )


@contextlib.contextmanager
def opened(
    url: str, name: str, space: Space, metric: str, seed: int, worker: str, decided: Mapping
) -> Iterator[Study]:
    """A study, made where there is none of the name.

    Args:
      url: of the storage, see `SCHEMES`; or `journal:` and the path of a file.
      name: of the study.
      space, metric, seed, worker: see `Study`.
      decided: what decides the figures beside the values, in JSON's types by name; a study with
        another is refused.

    Raises:
      UsageError: Optuna is missing, the storage can't be opened, or the study is another one's.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError(f"tune needs Optuna: {install_hint('tune')}") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions = ["minimize" if metric == "MAE" else "maximize", "minimize", "minimize"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inner = _asked(
            optuna.create_study,
            storage=_storage(url),
            study_name=name,
            directions=directions,
            load_if_exists=True,
        )
        study = Study(space, metric, seed, worker, inner)
        _identify(study, directions, decided)
        yield study


def _storage(url: str) -> Any:
    from optuna import storages

    if url.startswith(JOURNAL):
        from optuna.storages.journal import JournalFileBackend

        return _asked(
            lambda: storages.JournalStorage(JournalFileBackend(url.removeprefix(JOURNAL)))
        )
    scheme = url.partition("://")[0].partition("+")[0]
    if scheme not in SCHEMES:
        raise UsageError(
            f"--storage takes {', '.join(f'{one}://' for one in SCHEMES)} or {JOURNAL}FILE; got "
            f"{scheme}. Optuna's storage in Redis reads back pickles, which can run code."
        )
    return _asked(storages.RDBStorage, url)


def _identify(study: Study, directions: Sequence[str], decided: Mapping[str, Any]) -> None:
    digests = {key: digest(value) for key, value in decided.items()}
    inner = study.inner
    found = _asked(lambda: inner.user_attrs.get(IDENTITY))
    trials = _asked(inner.get_trials, deepcopy=False)
    if found is None and not trials:
        _asked(inner.set_user_attr, IDENTITY, digests)
        return
    theirs = found if isinstance(found, Mapping) else {}
    others = [key for key in digests if theirs.get(key) != digests[key]]
    if [one.name.lower() for one in inner.directions] != list(directions):
        others.append("objectives")
    if others:
        raise UsageError(
            f"the study {inner.study_name} was made with other {' and '.join(others)}, whose "
            f"figures do not compare: name another (--study), or another folder (--output)."
        )


def _replaced(trials: Sequence[Any]) -> set[int]:
    found = (one.user_attrs.get(INSTEAD_OF) for one in trials)
    return {number for number in found if type(number) is int}


def _asked(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """A call of Optuna's, whose storage may hold, and so raise, whatever somebody wrote to it."""
    try:
        return call(*arguments, **options)
    except Exception as error:
        raise UsageError(f"the study can't be read or written: {one_line(error)}") from error
