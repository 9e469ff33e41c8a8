"""Building one cache on the machines of a Ray cluster."""

import contextlib
import dataclasses
import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_distill._extras import install_hint
from keras_distill.progress import LOG
from keras_distill.teachers.cache import folder as folders
from keras_distill.teachers.cache.cache import TeacherCache
from keras_distill.teachers.cache.fingerprints import of_code
from keras_distill.teachers.cache.manifest import NAME
from keras_distill.teachers.cache.options import Options
from keras_distill.teachers.cache.records import CacheReport

__all__ = ["build_on_ray"]

Given = str | os.PathLike[str] | Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class _Job:
    """What a worker is sent: names of files and functions, no model and no data."""

    teacher: Path | Callable[[], Any]
    dataset: Path | Callable[[], Any]
    functions: dict[str, Callable | None]
    digests: dict[str, str]
    options: dict[str, Any]


def build_on_ray(
    teacher: Given,
    dataset: Given,
    directory: str | os.PathLike[str],
    *,
    parts: int,
    augment: Callable | None = None,
    teacher_preprocess: Callable | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
    retries: int = 3,
    verbose: bool = True,
    **options: Any,
) -> CacheReport:
    """Build a cache on a Ray cluster: every part a task, merged at the end.

        import ray
        from keras_distill.teachers.cache.cluster import build_on_ray

        ray.init("auto")
        build_on_ray("/shared/teacher.keras", "/shared/data.npz", "/shared/cache", parts=8)

    It runs on the Ray that this process is connected to, and starts one on this machine if there
    is none. The parts lie in `<directory>.parts` until the whole is merged and verified. A part
    whose worker died is tried again, on any machine, and goes on from its last whole shard; so
    does the whole when the same call is made again.

    The parts are tasks of Ray's core and not rows of a Ray Data pipeline. What has to be kept
    lies in files, so that nothing would flow through the pipeline; a task can be tried again for
    some errors and not for others, a part that fails leaves the others running, and this
    interface is the same since Ray 2.40, where that of Ray Data's maps has changed.

    Args:
      teacher: a .keras file, loaded in safe mode, or a function that returns what
        `TeacherCache.build` takes as a teacher. It runs on the workers.
      dataset: a .npz file of x, and y and sample_weight if there are any, or a function that
        returns what `TeacherCache.build` takes as data. It runs on the workers.
      directory: the cache's. It, and any file named above, must be on storage that all
        machines share.
      parts: how many; at most as many as there are shards. Some more than there are workers
        even out their speeds.
      augment, teacher_preprocess: as in `TeacherCache.build`; of a module that every machine has.
      num_cpus, num_gpus: what a task reserves of its machine.
      retries: how often a part is tried again after its worker died or its files failed it.
      verbose: print a line for each part that is finished.
      **options: `top_k`, `dtype`, `layers` (their names), `layer_dtype`, `epochs`, `seed`,
        `batch_size`, `shard_examples` and `store_inputs`, as in `TeacherCache.build`.

    Returns:
      The report of `verify` on the whole.

    Raises:
      ImportError: Ray is not installed.
      FileNotFoundError: a file that was named is not there.
      FileExistsError: `directory` holds something else.
      TypeError: an option that does not exist.
      ValueError: an option is out of range, `<directory>.parts` holds parts of another number, or
        `TeacherCache.build` refused, on whichever machine.
      RuntimeError: a part failed for another reason, as often as it was tried.
    """
    _check_options(options, parts)
    folder = Path(directory).absolute()
    there = folders.claim(folder) is not None
    place = folder.with_name(f"{folder.name}.parts")
    _refuse_other_parts(place, parts)
    job = _job(teacher, dataset, {"augment": augment, "preprocess": teacher_preprocess}, options)
    start = _remote(num_cpus, num_gpus, retries)
    if there and _lacks_nothing(folder):
        # Its parts are gone: what is left to do is to compare, and to mend what is damaged.
        _await({start(job, folder, (0, 1)): "the whole"}, verbose)
        report = folders.verify(folder)
    else:
        targets = [place / _name(part, parts) for part in range(parts)]
        tasks = {start(job, t, (i, parts)): f"part {i} of {parts}" for i, t in enumerate(targets)}
        _await(tasks, verbose)
        _check_visible(targets)
        report = folders.merge(targets, folder)
    if report.passed:
        _discard(place, parts)
    return report


def _build_part(job: _Job, folder: Path, shard: tuple[int, int]) -> None:
    """The task; runs on a worker."""
    for name, function in job.functions.items():
        if of_code(function) != job.digests[name]:
            raise ValueError(
                f"{name}: this worker reads another code of the function than the machine that "
                f"sent it, and the cache would later refuse it. Put it into a module that is "
                f"installed on every machine, in the same version."
            )
    teacher, dataset = _loaded(job.teacher, _model), _loaded(job.dataset, _arrays)
    TeacherCache.build(
        teacher,
        dataset,
        folder,
        augment=job.functions["augment"],
        teacher_preprocess=job.functions["preprocess"],
        shard=shard,
        verbose=False,
        **job.options,
    )


def _remote(num_cpus: float, num_gpus: float, retries: int) -> Callable:
    """A function that starts a task, and returns what it can be awaited by."""
    ray = _ray()
    task = ray.remote(_build_part).options(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        max_retries=retries,
        # A refusal, a ValueError, would be the same again. A lock may outlive its machine.
        retry_exceptions=[OSError, RuntimeError],
        scheduling_strategy="SPREAD",
    )
    return task.remote


def _await(tasks: dict[Any, str], verbose: bool) -> None:
    """Wait until all have ended, then raise the first failure of any."""
    ray = _ray()
    failures: dict[str, Exception] = {}
    left = list(tasks)
    try:
        while left:
            (done,), left = ray.wait(left, num_returns=1)
            try:
                ray.get(done)
            except Exception as failure:  # whatever a task can raise
                failures[tasks[done]] = failure
            if verbose:
                words = "FAILED" if tasks[done] in failures else "finished"
                LOG.info("%s: %s; %d to go", tasks[done], words, len(left))
    except BaseException:
        for task in left:
            # What is whole on disk stays, whenever the worker ends.
            ray.cancel(task, force=True)
        LOG.info("Stopped. What is finished stays; the same call goes on from there.")
        raise
    for name, error in failures.items():
        kind = ValueError if isinstance(error, ValueError) else RuntimeError
        cause = getattr(error, "cause", None) or error
        raise kind(
            f"{name} failed ({len(failures)} of {len(tasks)} did): {type(cause).__name__}: {cause} "
            f"What the others finished stays; the same call goes on from there."
        ) from error


def _job(
    teacher: Given, dataset: Given, functions: dict[str, Callable | None], options: dict[str, Any]
) -> _Job:
    digests = {name: of_code(function) for name, function in functions.items()}
    return _Job(
        _given("teacher", teacher, ".keras"),
        _given("dataset", dataset, ".npz"),
        functions,
        digests,
        options,
    )


def _given(name: str, value: Any, suffix: str) -> Path | Callable[[], Any]:
    """A file as a path that is the same in every process; a function as it is."""
    if isinstance(value, (str, os.PathLike)):
        path = Path(value).absolute()
        if path.suffix != suffix:
            raise ValueError(f"{name} must be a {suffix} file or a function; got {path}.")
        if not path.is_file():
            raise FileNotFoundError(f"{name}: there is no file at {path}.")
        return path
    if callable(value) and not isinstance(value, (keras.layers.Layer, keras.utils.PyDataset)):
        return value
    raise TypeError(
        f"{name} must be a {suffix} file that every machine sees, or a function that returns it "
        f"there; models and data are not sent. Got {type(value).__qualname__}."
    )


def _loaded(value: Path | Callable[[], Any], load: Callable[[Path], Any]) -> Any:
    return load(value) if isinstance(value, Path) else value()


_model = functools.partial(keras.saving.load_model, compile=False)


def _arrays(path: Path) -> tuple[np.ndarray, ...]:
    with np.load(path, allow_pickle=False) as archive:
        found = [name for name in ("x", "y", "sample_weight") if name in archive]
        if found != ["x", "y", "sample_weight"][: len(found)] or not found:
            raise ValueError(
                f"{path} must hold x, or x and y, or x, y and sample_weight, as "
                f"np.savez(path, x=x, y=y) writes them; it has {list(archive)}."
            )
        return tuple(archive[name] for name in found)


def _check_options(options: dict[str, Any], parts: int) -> None:
    allowed = {field.name for field in dataclasses.fields(Options)} - {"shard"}
    if unknown := sorted(set(options) - allowed):
        raise TypeError(
            f"build_on_ray has no option {', '.join(unknown)}; it has {', '.join(sorted(allowed))}."
        )
    if not isinstance(parts, int) or parts < 1:
        raise ValueError(f"parts must be a whole number of 1 or more; got {parts!r}.")
    if not all(isinstance(layer, str) for layer in options.get("layers", ())):
        raise TypeError("layers must be given by name: a layer object is not sent to the workers.")
    Options(**options)


def _refuse_other_parts(place: Path, parts: int) -> None:
    known = {_name(part, parts) for part in range(parts)}
    others = sorted(path.name for path in place.glob("*") if path.name not in known)
    if others:
        raise ValueError(
            f"{place} holds {', '.join(others[:3])}, and a build in {parts} parts would not use "
            f"it. Go on with as many parts as it was begun with, or remove that folder."
        )


def _lacks_nothing(folder: Path) -> bool:
    report = folders.verify(folder)
    return report.shards is not None and not report.missing


def _check_visible(targets: list[Path]) -> None:
    unseen = [str(target) for target in targets if not (target / NAME).is_file()]
    if unseen:
        raise RuntimeError(
            f"{len(unseen)} parts were finished on machines whose files this one does not see "
            f"({', '.join(unseen[:3])}). Give a directory on storage that all machines share, or "
            f"copy these folders here and call TeacherCache.merge."
        )


def _discard(place: Path, parts: int) -> None:
    """Remove the parts, and nothing else that may lie there."""
    for part in range(parts):
        shutil.rmtree(place / _name(part, parts), ignore_errors=True)
    with contextlib.suppress(OSError):
        place.rmdir()


def _name(part: int, parts: int) -> str:
    return f"{part}-of-{parts}"


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            f"build_on_ray runs on Ray, which is not installed: {install_hint('ray')}. "
            f"Without it, TeacherCache.build(..., shard=(i, n)) and merge do the same by hand."
        ) from error
    return ray
