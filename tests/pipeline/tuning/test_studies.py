"""Studies: the same draws from a seed, gone on with after a kill, and no value from outside."""

import datetime
import pickle
import sqlite3
import sys

import optuna
import pytest

from keras_distill.training.stages import UsageError

WIDTH = "models.student.arguments.width"
RATE = "stages.distil-student.learning_rate"
OBJECTIVE = "stages.distil-student.objectives.0"


def test_it_begins_with_the_recipes_own_point_and_draws_by_the_seed(opened, search):
    found = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        with opened(seed=seed, url="sqlite://") as study:
            found[name] = search(study, 12)
    own = {WIDTH: 8, RATE: 1e-3, OBJECTIVE: {"objective": "SoftTargets"}}
    assert found["a"][0] == found["c"][0] == own
    assert found["a"] == found["b"]
    assert found["a"][1:] != found["c"][1:]
    # Nothing is drawn twice with one state of the generator.
    assert len({values[RATE] for values in found["a"]}) == 12
    assert {values[OBJECTIVE]["objective"] for values in found["a"]} == {"SoftTargets", "DKD"}
    assert all(type(values[WIDTH]) is int for values in found["a"])


def test_gone_on_with_after_a_kill_it_draws_what_it_would_have_drawn(opened, search):
    # Beyond Optuna's first ten, which are drawn without regard to figures.
    with opened(url="sqlite://") as study:
        expected = search(study, 12)
    with opened() as study:
        search(study, 3)
        study.ask()  # and then it is killed
    with opened() as study:
        assert len(study.trials()) == 4
        assert study.take_up() == 1
        assert study.take_up() == 0
        assert len(study.trials()) == 3
        search(study, 9)
        assert [point.values for point in study.points()] == expected
        assert study.failed() == 0
        # The killed trial's number is not given again.
        assert [point.trial for point in study.points()] == [*range(3), *range(4, 13)]


def test_what_another_machine_runs_is_left_to_it(opened, search):
    with opened(worker="there") as study:
        search(study, 2)
        theirs, values = study.ask()
    with opened(worker="here") as study:
        assert study.take_up() == 0
        ours, _ = study.ask()
        assert len(study.trials()) == 4
    with opened(worker="there") as study:
        assert study.take_up() == 1
        running = [one.number for one in study.trials() if one.state.name == "RUNNING"]
        assert running == [ours.number]
        assert theirs.number not in running
        # There are more trials than when they were drawn: they come from the killed one.
        assert study.ask()[1] == values


@pytest.mark.parametrize(("age", "left"), [(5, 0), (300, 1)])
def test_killed_before_it_has_a_name_a_trial_is_taken_up_later(opened, tmp_path, age, left):
    with opened() as study:
        study.inner.ask()
    began = datetime.datetime.now() - datetime.timedelta(seconds=age)
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute("update trials set datetime_start = ?", (str(began),))
    with opened() as study:
        assert study.take_up() == left


def enter(study, params, distributions, **more):
    """Write a finished trial to a study as any program may."""
    trial = optuna.trial.create_trial(
        params=params, distributions=distributions, values=more.pop("values", [0.5, 100.0, 0.1]),
        user_attrs={"latency_low_ms": 0.1, "latency_high_ms": 0.1, "seconds": 1, "host": "h"}
        | more,
    )  # fmt: skip
    study.inner.add_trial(trial)


@pytest.fixture
def right(space):
    """What a trial of the space's has: parameters and their distributions."""
    params = {one.place: one.first for one in space.parameters}
    return params, {one.place: one.distribution() for one in space.parameters}


def test_what_anybody_has_entered_counts_where_it_is_in_the_space(opened, right):
    with opened() as study:
        enter(study, *right)
        (point,) = study.points()
        assert point.values == {WIDTH: 8, RATE: 1e-3, OBJECTIVE: {"objective": "SoftTargets"}}


@pytest.mark.parametrize(
    ("place", "value", "distribution"),
    [
        (WIDTH, 400, optuna.distributions.IntDistribution(4, 1000)),
        (WIDTH, 8.5, optuna.distributions.FloatDistribution(4, 16)),
        (RATE, 2.0, optuna.distributions.FloatDistribution(1e-4, 10, log=True)),
        (OBJECTIVE, '"os:system"', optuna.distributions.CategoricalDistribution(['"os:system"'])),
        (OBJECTIVE, True, optuna.distributions.CategoricalDistribution([True, False])),
        ("data.set", "x", optuna.distributions.CategoricalDistribution(["x"])),
    ],
)
def test_values_outside_of_the_space_are_refused(opened, right, place, value, distribution):
    params, distributions = right
    with opened() as study:
        enter(study, params | {place: value}, distributions | {place: distribution})
        for call in (study.points, study.ask):
            with pytest.raises(UsageError, match=r"trial 0 of the study small holds .*--study"):
                call()


@pytest.mark.parametrize(
    "more",
    [
        {"values": [float("inf"), 100.0, 0.1]},
        {"values": [0.5, 100.5, 0.1]},
        {"values": [0.5, -1.0, 0.1]},
        {"values": [0.5, 100.0, float("inf")]},
        {"latency_low_ms": "none"},
        {"seconds": None},
    ],
)
def test_figures_that_are_none_are_refused(opened, right, more):
    with opened() as study:
        enter(study, *right, **more)
        with pytest.raises(UsageError, match="trial 0 of the study small holds"):
            study.points()


def test_a_point_asked_for_by_hand_from_outside_is_refused_once(opened, right, search):
    with opened() as study:
        search(study, 1)
        study.inner.enqueue_trial(right[0] | {WIDTH: 400})
        with pytest.raises(UsageError, match=r"trial 1 .* = 400, which the recipe does not"):
            study.ask()
        search(study, 1)
        assert [point.trial for point in study.points()] == [0, 2]


def test_another_recipes_study_is_refused(opened, search):
    with opened() as study:
        search(study, 1)
    with pytest.raises(UsageError, match=r"made with other stages, .*--study"), opened(stages=2):
        pass
    with opened() as study:
        assert len(study.points()) == 1


def test_a_strangers_study_is_refused(opened, tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    stranger = optuna.create_study(storage=url, study_name="small")
    stranger.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(UsageError, match=r"other stages and data and objectives"), opened():
        pass


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://localhost", "reads back pickles"),
        ("grpc://localhost", "--storage takes sqlite://"),
        ("study.db", "--storage takes sqlite://"),
        ("sqlite:///no/such/folder/study.db", "can't be read or written"),
    ],
)
def test_a_storage_that_is_none_is_told_in_a_line(opened, url, words):
    with pytest.raises(UsageError, match=words) as caught, opened(url=url):
        pass
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_study_is_told_in_a_line(opened, tmp_path):
    (tmp_path / "study.db").write_text("no database, though long enough to be one" * 20)
    with pytest.raises(UsageError, match=r"can't be read or written: .*not a database"), opened():
        pass


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_nothing_is_pickled(opened, search, tmp_path, monkeypatch, kind):
    def refuse(*arguments, **options):
        raise AssertionError("pickled")

    url = {"sqlite": None, "journal": f"journal:{tmp_path / 'study.log'}"}[kind]
    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    for _ in range(2):
        with opened(url=url) as study:
            search(study, 2)
    assert len(study.points()) == 4


def test_without_optuna_the_command_that_installs_it_is_told(opened, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match="tune needs Optuna: pip install"), opened():
        pass
