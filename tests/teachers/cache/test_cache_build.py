"""Building: what lies in the folder, going on after a stop, and what is refused."""

import errno
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_distill as kd
from keras_distill import _files
from keras_distill.teachers import cache as package
from keras_distill.teachers.cache import building, locking, making

SMALL = {"batch_size": 8, "shard_examples": 16, "verbose": False}


def build(teacher, data, folder, **options):
    return kd.TeacherCache.build(teacher, data, folder, **{**SMALL, **options})


def doubled(x):
    return 2.0 * x


def records(folder):
    return np.concatenate([np.load(p) for p in sorted(folder.glob("*.npy"))])


def test_a_shard_is_a_plain_npy_file_of_the_teachers_answers(teacher, data, tmp_path):
    build(teacher, data, tmp_path / "c", dtype="float32", layers=["hidden"], layer_dtype="float32")
    found = records(tmp_path / "c")
    hidden = keras.Model(teacher.inputs, teacher.layers[0].output)
    assert len(found) == 70
    np.testing.assert_allclose(found["logits"], teacher(data[0]), atol=1e-5)
    np.testing.assert_allclose(found["layer[hidden]"], hidden(data[0]), atol=1e-5)


def test_checksums_are_those_of_b2sum(teacher, data, tmp_path):
    build(teacher, data, tmp_path / "c")
    beside = sorted(path.name for path in (tmp_path / "c").glob("*.b2"))
    assert len(beside) == 5
    command = ["b2sum", "-l", "128", "-c", *beside]
    if subprocess.run(["which", "b2sum"], capture_output=True).returncode:
        pytest.skip("no b2sum here")
    assert subprocess.run(command, cwd=tmp_path / "c", capture_output=True).returncode == 0


@pytest.mark.parametrize(("kept", "views"), [(1, 1), (10, 1), (10, 2)])
def test_bytes_an_example_are_at_most_6k_plus_12(tmp_path, kept, views):
    # The record itself: 2 + 2 bytes a class, 4 of the rest, 4 of the input's and of the view's
    # fingerprint each; the files around it must fit into what is left.
    big = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1000)])
    x = np.random.default_rng(0).standard_normal((2000, 2)).astype("float32")
    augment = (lambda x, seed: x + tf.random.stateless_normal((2,), seed)) if views > 1 else None
    cache = kd.TeacherCache.build(
        big, x, tmp_path / "c", top_k=kept, verbose=False, augment=augment, epochs=views
    )
    size = sum(path.stat().st_size for path in (tmp_path / "c").iterdir())
    assert size / (2000 * views) <= 6 * kept + 12
    assert cache.info().bytes_an_example == pytest.approx(size / (2000 * views))


def test_the_folder_is_the_same_whenever_it_is_built(teacher, data, tmp_path, content):
    for name in "ab":
        build(teacher, data, tmp_path / name)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").glob("*.npy*")}
    build(teacher, data, tmp_path / "a")
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "a").glob("*.npy*")}


# It forks before TensorFlow starts a thread, so that only one process has to import it.
KILLED = """
import os, random, signal, sys, time
import numpy as np
import keras_distill as kd

folder = sys.argv[1]

def build():
    x = np.random.default_rng(0).standard_normal((4000, 5)).astype("float32")
    options = dict(batch_size=8, shard_examples=8, dtype="float32", verbose=False)
    kd.TeacherCache.build(lambda x: 2.0 * x, x, folder, **options)

def shards():
    return sum(name.endswith(".npy") for name in os.listdir(folder)) if os.path.isdir(folder) else 0

def forked():
    child = os.fork()
    if not child:
        build()
        os._exit(0)
    return child

def ended(child):
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)

random.seed(0)
kills = 0
while kills < 20:
    before, child = shards(), forked()
    while shards() == before and not ended(child):
        time.sleep(0.001)
    time.sleep(random.random() * 0.02)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        break
    kills += 1
_, status = os.waitpid(forked(), 0)
print(kills, status)
"""


@pytest.fixture
def quick_folder(tmp_path):
    """In memory where the system has such a place: thousands of fsyncs there take no time."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else tmp_path) as folder:
        yield Path(folder)


@pytest.mark.slow
def test_killed_at_20_points_it_ends_in_the_same_bytes(quick_folder, content):
    tmp_path = quick_folder
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed")],
        capture_output=True,
        text=True,
        check=True,
    )
    kills, status = map(int, run.stdout.split())
    assert (kills, status) == (20, 0)
    x = np.random.default_rng(0).standard_normal((4000, 5)).astype("float32")
    build(doubled, x, tmp_path / "whole", shard_examples=8, dtype="float32")
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.slow
def test_cut_off_before_and_after_every_write_it_ends_in_the_same_bytes(
    data, quick_folder, content, monkeypatch
):
    class Killed(BaseException):
        pass

    def dying(after):
        """`write` that leaves what a kill leaves at its `after`-th point of five a file."""
        count = iter(range(10_000))

        def write(path, *parts, last=True):
            folder, whole = path.with_name(f".{path.name}.killed__.partial"), b"".join(parts)
            folder.mkdir(exist_ok=True)
            beside = folder / path.name
            for reach in (0, 1, len(whole) // 2, len(whole)):
                beside.write_bytes(whole[:reach])
                if next(count) == after:
                    raise Killed
            os.replace(beside, path)
            folder.rmdir()
            if next(count) == after:
                raise Killed

        return write

    build(doubled, data, quick_folder / "whole")
    expected, folder = content(quick_folder / "whole"), quick_folder / "cut"
    folder.mkdir()
    # Five points each for a manifest, five shards and their checksums.
    for point in range(0, 5 * 11, 4):
        with monkeypatch.context() as patched:
            patched.setattr(_files, "write", dying(point))
            with pytest.raises(Killed):
                build(doubled, data, folder)
        build(doubled, data, folder)
        assert content(folder) == expected
        for path in folder.iterdir():
            path.unlink()


def test_every_flipped_byte_is_found(teacher, data, tmp_path):
    folder = tmp_path / "c"
    cache = build(teacher, data, folder, shard_examples=40)
    assert cache.verify().passed
    for path in sorted(folder.glob("*000001.npy*")):
        original = path.read_bytes()
        for place in range(len(original)):
            path.write_bytes(
                bytes([*original[:place], original[place] ^ 1, *original[place + 1 :]])
            )
            report = cache.verify()
            assert list(report.damaged) == ["epoch0000-shard000001.npy"], (path.name, place)
            assert not report.passed
        path.write_bytes(original)
    path = folder / "manifest.json"
    original = path.read_bytes()
    for place in range(len(original)):
        path.write_bytes(bytes([*original[:place], original[place] ^ 1, *original[place + 1 :]]))
        with pytest.raises(ValueError, match=r"manifest\.json is"):
            cache.verify()


def test_a_damaged_shard_alone_is_made_anew(teacher, data, tmp_path, content):
    folder = tmp_path / "c"
    cache = build(teacher, data, folder)
    before = content(folder)
    victim = folder / "epoch0000-shard000002.npy"
    asked = []
    for mend in (
        lambda: cache.rebuild(2),
        lambda: kd.TeacherCache.open(folder, data).rebuild(victim.name, teacher=teacher),
        lambda: build(teacher, data, folder),
    ):
        victim.write_bytes(victim.read_bytes()[:-7])
        assert list(cache.verify().damaged) == [victim.name]
        times = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.npy")}
        mend()
        asked.append(sum(times[p.name] != p.stat().st_mtime_ns for p in folder.glob("*.npy")))
        assert content(folder) == before
    assert asked == [1, 1, 1]
    with pytest.raises(ValueError, match="no shard 99"):
        cache.rebuild(99)
    with pytest.raises(ValueError, match="without what answers a shard"):
        kd.TeacherCache.open(folder, data).rebuild(1)


def test_a_foreign_folder_is_left_alone(teacher, data, tmp_path, content):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"something else \(thesis\.tex\)"):
        build(teacher, data, tmp_path)
    (tmp_path / "manifest.json").write_text('{"name": "an app"}')
    with pytest.raises(ValueError, match="no manifest of a teacher cache"):
        build(teacher, data, tmp_path)
    with pytest.raises(FileExistsError, match="is a file"):
        build(teacher, data, tmp_path / "thesis.tex")
    assert set(content(tmp_path)) == {"thesis.tex", "manifest.json"}


def shifted(x):
    return x + 1.0


def test_what_differs_is_named(teacher, data, tmp_path, content):
    folder = tmp_path / "c"
    build(teacher, data, folder, top_k=2)
    before = content(folder)
    x = data[0]
    other = keras.models.clone_model(teacher)
    wider = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu")])
    views = {"augment": lambda x, seed: x + tf.random.stateless_normal((5,), seed)}
    cases = {
        "teacher weights": lambda: build(other, data, folder, top_k=2),
        "teacher graph": lambda: build(wider, data, folder, top_k=2),
        "teacher preprocessing": lambda: build(
            teacher, data, folder, top_k=2, teacher_preprocess=shifted
        ),
        "augmentation": lambda: build(teacher, data, folder, top_k=2, **views),
        "top_k": lambda: build(teacher, data, folder, top_k=3),
        "seed": lambda: build(teacher, data, folder, top_k=2, seed=1),
        "dtype": lambda: build(teacher, data, folder, top_k=2, dtype="float32"),
        "examples: 70 in the cache, 69 now": lambda: build(teacher, x[:69], folder, top_k=2),
        "inputs": lambda: build(teacher, x.astype("float64"), folder, top_k=2),
        "example 0 is what example 69 was: its order changed": lambda: build(
            teacher, x[::-1].copy(), folder, top_k=2
        ),
        "example 0 is another": lambda: build(teacher, x * 2, folder, top_k=2),
    }
    for words, case in cases.items():
        with pytest.raises(ValueError, match=r"What differs|is not the one") as refusal:
            case()
        assert words in str(refusal.value)
        assert content(folder) == before, words


def test_other_library_versions_are_told_and_build_on(
    teacher, data, tmp_path, monkeypatch, content
):
    folder = tmp_path / "c"
    build(teacher, data, folder)
    before = content(folder)
    (folder / "epoch0000-shard000004.npy").unlink()
    monkeypatch.setattr(making, "versions", lambda: {"keras": "99.0"})
    with pytest.warns(UserWarning, match=r"begun with keras 3.*now it is keras 99\.0") as told:
        kd.TeacherCache.build(teacher, data, folder, **SMALL)
    ours = [warning for warning in told if "begun with" in str(warning.message)]
    assert {warning.filename for warning in ours} == {__file__}
    assert content(folder) == before


def test_bad_options_are_refused_before_anything_is_written(teacher, data, tmp_path):
    refused = {
        "top_k must be at most the number of classes, 4; got 5": {"top_k": 5},
        "top_k must be a whole number of 1 or more": {"top_k": 0},
        "dtype must be one of": {"dtype": "int8"},
        "a multiple of batch_size": {"shard_examples": 12},
        "without\naugment= they are all the same": {"epochs": 2},
        "0 <= i < n": {"shard": (2, 2)},
        "only 5 shards": {"shard": (0, 6)},
        "No layer": {"layers": ["nowhere"]},
    }
    for words, options in refused.items():
        with pytest.raises(ValueError, match=words.replace("\n", " ")):
            build(teacher, data, tmp_path / "c", **options)
    for empty in (data[0][:0], tf.data.Dataset.from_tensor_slices(data[0]).batch(8).take(0)):
        with pytest.raises(ValueError, match=r"0 rows|empty"):
            build(teacher, empty, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_an_answer_that_does_not_fit_is_refused(data, tmp_path):
    def loud(x):
        return tf.concat([x[:, :1] * 0 + 1e6, x], axis=1)

    with pytest.raises(ValueError, match="too large for dtype='float16'"):
        build(loud, data, tmp_path / "c")
    build(loud, data, tmp_path / "d", dtype="bfloat16")


def test_a_full_disk_leaves_what_is_whole(teacher, data, tmp_path, monkeypatch, content):
    build(teacher, data, tmp_path / "whole")
    write, calls = _files.write, []

    def full(path, *parts, **options):
        calls.append(path)
        if len(calls) == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, *parts, **options)

    monkeypatch.setattr(_files, "write", full)
    with pytest.raises(OSError, match="The disk is full: 2 shards are whole") as refusal:
        build(teacher, data, tmp_path / "c")
    assert refusal.value.errno == errno.ENOSPC
    assert len(package.verify(tmp_path / "c").whole) == 2
    with pytest.raises(ValueError, match="not complete: 3 shards are missing"):
        kd.TeacherCache.open(tmp_path / "c", data).dataset(8)
    monkeypatch.undo()
    build(teacher, data, tmp_path / "c")
    assert content(tmp_path / "c") == content(tmp_path / "whole")


def test_ctrl_c_keeps_what_is_finished(teacher, data, tmp_path, monkeypatch, capsys, content):
    build(teacher, data, tmp_path / "whole")
    real, seen = building.Builder._check_input, []

    def interrupted(self, epoch, at, found):
        seen.append(at)
        if len(seen) == 6:
            raise KeyboardInterrupt
        real(self, epoch, at, found)

    monkeypatch.setattr(building.Builder, "_check_input", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(teacher, data, tmp_path / "c")
    assert "the same call goes on from there" in capsys.readouterr().out
    assert len(package.verify(tmp_path / "c").whole) == 2
    monkeypatch.undo()
    build(teacher, data, tmp_path / "c")
    assert content(tmp_path / "c") == content(tmp_path / "whole")


@pytest.fixture
def asked(monkeypatch):
    """Set when the teacher has been asked about the sixth batch."""
    event, calls, real = threading.Event(), [], building.Answers.encoder

    def encoder(self, layout):
        encode = real(self, layout)

        def counted(views):
            calls.append(None)
            if len(calls) == 6:
                event.set()
            return encode(views)

        return counted

    monkeypatch.setattr(building.Answers, "encoder", encoder)
    return event


def test_the_teacher_is_at_work_while_answers_are_put_down(
    teacher, data, tmp_path, monkeypatch, asked
):
    real, seen = building.Builder._check_input, []

    def after_the_next(self, epoch, at, found):
        seen.append(at)
        # The fifth waits until the sixth is asked about.
        assert len(seen) != 5 or asked.wait(30)
        real(self, epoch, at, found)

    monkeypatch.setattr(building.Builder, "_check_input", after_the_next)
    build(teacher, data, tmp_path / "c")
    assert seen == list(range(0, 70, 8))


def test_a_failure_while_a_shard_is_being_written_loses_none(
    data, tmp_path, monkeypatch, content, asked
):
    write, check = _files.write, building.Builder._check_input

    def behind(path, *parts, **options):
        # The second shard comes to the disk while the teacher is at the third one's batches.
        assert "shard000001" not in path.name or asked.wait(30)
        write(path, *parts, **options)

    def failing(self, epoch, at, found):
        if at == 40:
            raise InterruptedError
        check(self, epoch, at, found)

    monkeypatch.setattr(_files, "write", behind)
    monkeypatch.setattr(building.Builder, "_check_input", failing)
    with pytest.raises(InterruptedError):
        build(doubled, data, tmp_path / "c")
    assert asked.is_set()
    assert len(package.verify(tmp_path / "c").whole) == 2
    monkeypatch.undo()
    for name in ("c", "whole"):
        build(doubled, data, tmp_path / name)
    assert content(tmp_path / "c") == content(tmp_path / "whole")


def _hold(folder, shard, ready, done):
    with locking.building(folder, shard):
        ready.set()
        done.wait(60)


def test_two_builders_do_not_meet(teacher, data, tmp_path, content):
    folder = tmp_path / "c"
    build(teacher, data, folder)
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(folder, (0, 1), ready, done))
    other.start()
    assert ready.wait(60)
    before = content(folder)
    with pytest.raises(RuntimeError, match=rf"\(pid {other.pid}\) is building"):
        build(teacher, data, folder)
    with pytest.raises(RuntimeError, match="is building"):
        build(teacher, data, folder, shard=(0, 2))
    assert content(folder) == before
    other.kill()
    other.join()
    # The lock died with its owner.
    build(teacher, data, folder)
    assert (folder / ".lock").read_bytes() == b""


def test_parts_of_several_machines_make_the_whole(teacher, data, tmp_path, content):
    build(teacher, data, tmp_path / "whole")
    parts = [tmp_path / f"part{i}" for i in range(3)]
    for i, part in enumerate(parts):
        cache = build(teacher, data, part, shard=(i, 3))
        assert not cache.info().complete
    with pytest.raises(ValueError, match="put together by merge"):
        cache.dataset(8)
    with pytest.raises(ValueError, match="in none of the parts"):
        kd.TeacherCache.merge(parts[:2], tmp_path / "m")
    assert not (tmp_path / "m").exists()
    assert kd.TeacherCache.merge(parts, tmp_path / "m").passed
    assert content(tmp_path / "m") == content(tmp_path / "whole")
    victim = next(parts[1].glob("*.npy"))
    victim.write_bytes(victim.read_bytes() + b"x")
    with pytest.raises(ValueError, match=rf"{victim.name} .*bytes"):
        kd.TeacherCache.merge(parts, tmp_path / "n")
    build(teacher, data[0], tmp_path / "other", dtype="float32")
    with pytest.raises(ValueError, match="different caches"):
        kd.TeacherCache.merge([parts[0], tmp_path / "other"], tmp_path / "n")


def test_parts_may_share_a_folder(teacher, data, tmp_path, content):
    build(teacher, data, tmp_path / "whole")
    for i in (1, 0):
        cache = build(teacher, data, tmp_path / "c", shard=(i, 2))
    assert cache.verify().passed
    found = {k: v for k, v in content(tmp_path / "c").items() if not k.startswith(".lock-")}
    assert found == content(tmp_path / "whole")


def test_records_print_as_tables(teacher, data, tmp_path):
    cache = build(teacher, data, tmp_path / "c", top_k=2, layers=["hidden"])
    info, report = cache.info(), cache.verify()
    assert info.complete
    assert "the 2 largest logits, float16" in str(info)
    assert info.rest_bound_nats[1.0] > 0
    p = np.sort(tf.nn.softmax(teacher(data[0])[:16]).numpy(), axis=1)
    assert info.rest_share == pytest.approx(p[:, :2].sum(1).mean(), rel=1e-3)
    assert "passed" in str(report)
    assert '"whole": ["epoch0000-shard000000.npy"' in report.to_json()
    with pytest.raises(FileNotFoundError, match="no teacher cache"):
        package.info(tmp_path)
