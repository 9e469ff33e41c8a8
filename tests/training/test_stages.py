"""Stages: finished work is kept and reused, unfinished work leaves nothing."""

import json
import multiprocessing
import time

import pytest

from keras_distill.training.stages import Folder, Stage, UsageError, run_stages

DEEP = '{"settings": ' + "[" * 100_000


class Recorder:
    """Makes stages that count how often they run."""

    def __init__(self):
        self.ran = []

    def stage(self, name, error=None, content=None):
        def make(into):
            self.ran.append(name)
            (into / f"{name}.txt").write_text(content or name)
            if error:
                raise error
            return f"{name} made"

        return Stage(name, (f"{name}.txt",), make)


def run(path, stages, settings=None):
    folder = Folder(path)
    with folder.open(settings or {"seed": 0}, stages):
        return list(run_stages(stages, folder))


def test_finished_stages_are_reused(tmp_path):
    work = Recorder()
    stages = [work.stage("a"), work.stage("b")]
    run(tmp_path, stages)
    again = run(tmp_path, stages)
    assert work.ran == ["a", "b"]
    assert [(outcome, reused) for _, outcome, reused in again] == [
        ("a made", True),
        ("b made", True),
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no")])
def test_an_interrupted_stage_leaves_nothing_and_the_next_run_goes_on(tmp_path, error):
    work = Recorder()
    with pytest.raises(type(error)):
        run(tmp_path, [work.stage("a"), work.stage("b", error)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "stages.json"]
    run(tmp_path, [work.stage("a"), work.stage("b")])
    assert work.ran == ["a", "b", "b"]


def test_a_changed_artefact_is_made_again_with_all_that_follows(tmp_path):
    work = Recorder()
    stages = [work.stage("a"), work.stage("b"), work.stage("c")]
    run(tmp_path, stages)
    (tmp_path / "b.txt").write_text("broken")
    run(tmp_path, stages)
    assert work.ran == ["a", "b", "c", "b", "c"]


def test_what_was_made_from_an_older_line_is_made_again(tmp_path):
    work = Recorder()
    stages = [work.stage("a"), work.stage("b"), work.stage("c")]
    run(tmp_path, stages)
    # Another "a" is made, and nothing after it.
    (tmp_path / "a.txt").unlink()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, [work.stage("a", content="new"), work.stage("b", KeyboardInterrupt())])
    run(tmp_path, [work.stage("a", content="new"), *stages[1:]])
    assert work.ran == ["a", "b", "c", "a", "b", "b", "c"]


def test_a_record_of_an_earlier_version_goes_on(tmp_path):
    work = Recorder()
    stages = [work.stage("a"), work.stage("b")]
    run(tmp_path, stages)
    record = json.loads((tmp_path / "stages.json").read_text())
    for entry in record["finished"].values():
        del entry["made_from"]
    (tmp_path / "stages.json").write_text(json.dumps(record))
    run(tmp_path, stages)
    assert work.ran == ["a", "b"]
    with pytest.raises(UsageError, match="graph None there"):
        run(tmp_path, stages, {"seed": 0, "graph": "x"})
    with Folder(tmp_path).open({"seed": 0, "graph": "x"}, stages, added=["graph"]):
        pass
    with pytest.raises(UsageError, match="seed 0 there"):
        Folder(tmp_path).open({"seed": 1, "graph": "x"}, stages, added=["graph"]).__enter__()


def _hold(path, ready):
    with Folder(path).open({"seed": 0}, []):
        ready.set()
        time.sleep(60)


def test_two_runs_do_not_meet_in_one_folder(tmp_path):
    work = Recorder()
    stages = [work.stage("a")]
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(UsageError, match=f"another run is at work in {tmp_path}"):
            run(tmp_path, stages)
    finally:
        other.kill()
        other.join()
    assert work.ran == []
    # The system let go of it with the process that is no more.
    run(tmp_path, stages)
    assert work.ran == ["a"]


def test_leftovers_of_a_kill_are_swept(tmp_path):
    work = Recorder()
    stages = [work.stage("a")]
    run(tmp_path, stages)
    (tmp_path / ".unfinished.12345678.partial").mkdir()
    run(tmp_path, stages)
    assert not (tmp_path / ".unfinished.12345678.partial").exists()


def test_another_run_is_not_overwritten(tmp_path):
    work = Recorder()
    stages = [work.stage("a")]
    run(tmp_path, stages)
    with pytest.raises(UsageError, match=r"seed 0 there, 1 now"):
        run(tmp_path, stages, {"seed": 1})
    assert json.loads((tmp_path / "stages.json").read_text())["settings"] == {"seed": 0}


def test_a_strangers_file_is_not_overwritten(tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(UsageError, match="no earlier run wrote it"):
        run(tmp_path, [Recorder().stage("a")])
    assert (tmp_path / "a.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"settings": 3, "finished": {}}', DEEP, '{"settings": {}, "finished": {"a": {}}}'],
)
def test_an_unreadable_record_is_named(tmp_path, text):
    (tmp_path / "stages.json").write_text(text)
    with pytest.raises(UsageError, match=r"stages\.json must be the record"):
        run(tmp_path, [Recorder().stage("a")])


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--output"):
        Folder(tmp_path / "file" / "below").check_writable()
