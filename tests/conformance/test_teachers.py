"""One suite over every Teacher found in the package: a new one gets it for free."""

import dataclasses
import importlib
import inspect
import pkgutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression

from keras_distill import Signals, teachers
from keras_distill.teachers import Teacher, TeacherCache
from keras_distill.teachers.composite import Composite

X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
Y = np.array([0, 1, 2, 0, 1, 2])
SPEC = keras.KerasTensor((None, 4))


def model(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="out")])


def cache(folder):
    return TeacherCache.build(model(), X, folder / "cache", dtype="float32", verbose=False)


# How one is made of members; a Composite that is missing here fails by its name.
MADE = {
    "Ensemble": lambda members, folder: teachers.Ensemble(members),
    "Estimator": lambda members, folder: teachers.Estimator(LogisticRegression().fit(X, Y)),
    "Model": lambda members, folder: teachers.Model(model()),
    "MovingAverage": lambda members, folder: teachers.MovingAverage(model()),
    "MultiTask": lambda members, folder: teachers.MultiTask({"one": members[0], "two": members[1]}),
    "Noisy": lambda members, folder: teachers.Noisy(members[0]),
    "TeacherCache": lambda members, folder: cache(folder),
    "Virtual": lambda members, folder: teachers.Virtual(3),
}


def found(kind):
    """Every public class of this kind in the package."""
    classes = {}
    for module in pkgutil.walk_packages(teachers.__path__, f"{teachers.__name__}."):
        for one in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(one) and issubclass(one, kind):
                classes[one.__name__] = one
    return sorted(set(classes) - {"Absent", "Composite", "Teacher"})


class Spy(Teacher):
    """Notes what it is asked, and answers each question as nobody else does."""

    def __init__(self):
        self.asked = []
        self.variable = tf.Variable(0.0)
        self.callback = keras.callbacks.Callback()

    def prepare(self, input_spec, taps):
        self.asked.append("prepare")
        return Signals(keras.KerasTensor((None, 3)))

    def __call__(self, x):
        self.asked.append("__call__")
        return Signals(tf.cast(x, "float32")[:, :3])

    def meet(self, student):
        self.asked.append("meet")

    def answer(self, x, labels):
        self.asked.append("answer")
        return Signals(tf.cast(x, "float32")[:, :3])

    def undisturbed(self, x, labels):
        self.asked.append("undisturbed")
        return Signals(tf.cast(x, "float32")[:, :3])

    @property
    def state(self):
        return (self.variable,)

    @property
    def cached(self):
        return True

    def kinds(self):
        return {None: "sigmoid"}

    def after_update(self, iterations):
        self.asked.append("after_update")

    def fingerprint(self):
        return f"spy {self.variable.numpy()}"

    revision = 3

    def refresh(self):
        self.asked.append("refresh")
        return True

    def count_params(self):
        return 7

    def check_data(self, x):
        self.asked.append("check_data")

    def check_evaluated(self, x):
        self.asked.append("check_evaluated")

    def callbacks(self):
        return [self.callback]

    def jit_compile(self, asked):
        return False


COMPOSITES = [name for name in found(Composite) if name != "MovingAverage"]


def test_the_spy_defines_whatever_a_teacher_does():
    asked = {name for name in vars(Teacher) if name == "__call__" or not name.startswith("_")}
    assert asked - {"build"} <= set(vars(Spy))


class Older(Teacher):
    """Defines `build`, as a teacher from outside the package may."""

    def build(self, input_spec, taps):
        return Signals(keras.KerasTensor((None, 3)), {tap: input_spec for tap in taps})


def test_a_teacher_may_be_defined_and_asked_by_the_name_of_build():
    assert Older().prepare(SPEC, ("here",)).taps == {"here": SPEC}
    assert Spy().build(SPEC, ()).logits.shape == (None, 3)
    with pytest.raises(NotImplementedError, match="Teacher defines no prepare"):
        Teacher().prepare(SPEC, ())
    with pytest.raises(NotImplementedError, match="Teacher defines no prepare"):
        Teacher().build(SPEC, ())


@pytest.mark.parametrize("name", COMPOSITES)
def test_whatever_is_asked_of_a_composite_is_asked_of_its_members(name, tmp_path):
    spies = [Spy(), Spy()]
    teacher = MADE[name](spies, tmp_path)
    used = spies[: len(teacher.members)]
    teacher.meet(None)
    teacher.prepare(SPEC, ())
    teacher(X)
    teacher.answer(X, Y)
    teacher.undisturbed(X, Y)
    teacher.after_update(1)
    teacher.check_data(X)
    teacher.check_evaluated(X)
    assert teacher.refresh()
    for spy in used:
        assert spy.asked == [
            "meet", "prepare", "__call__", "answer", "undisturbed", "after_update", "check_data",
            "check_evaluated", "refresh",
        ]  # fmt: skip
        assert any(spy.variable is variable for variable in teacher.state)
        assert spy.callback in teacher.callbacks()
    assert teacher.cached
    assert set(teacher.kinds().values()) == {"sigmoid"}
    assert teacher.count_params() == 7 * len(used)
    assert teacher.revision == 3 * len(used)
    assert teacher.jit_compile("auto") is False
    before = teacher.fingerprint()
    used[-1].variable.assign(1.0)
    assert teacher.fingerprint() != before


def in_a_graph(teacher, x):
    """A teacher's Signals, asked inside a tf.function."""
    given = []

    def ask(x, labels):
        given.append(teacher.answer(x, labels))
        return given[-1].logits

    logits = tf.function(ask, autograph=False)(x, tf.constant(Y))
    return dataclasses.replace(given[-1], logits=logits)


@pytest.mark.parametrize("name", found(Teacher))
def test_a_teacher_keeps_its_word(name, tmp_path):
    teacher = MADE[name]([model(1), model(2)], tmp_path)
    teacher.meet(teacher._student if name == "MovingAverage" else model())
    spec = teacher.prepare(SPEC, ())
    x = next(iter(teacher.dataset(6, shuffle=False)))[0] if teacher.cached else tf.constant(X)
    answers = in_a_graph(teacher, x)
    assert answers.names == spec.names
    for head in spec.heads:
        assert answers.head(head).kind == spec.head(head).kind
        assert tuple(spec.head(head).logits.shape) == (None, 3)
        assert answers.head(head).logits.shape == (6, 3)
    assert isinstance(teacher.fingerprint(), str)
    assert teacher.fingerprint() == teacher.fingerprint()
    assert teacher.refresh() is False
    assert isinstance(teacher.state, tuple)
    assert isinstance(teacher.callbacks(), list)
    assert teacher.jit_compile("auto") in ("auto", False)
    assert set(teacher.kinds().values()) <= {"logits", "probabilities", "sigmoid"}
    assert teacher.cached == (name == "TeacherCache")
    # Built again, for other taps, it is the same teacher.
    assert teacher.prepare(SPEC, ()).names == spec.names


@pytest.mark.parametrize("name", ["Noisy", "Ensemble"])
def test_a_cache_inside_of_another_follows_the_epochs_of_fit(name, tmp_path):
    inner = cache(tmp_path)
    teacher = MADE[name]([inner, model(3)], tmp_path)
    with pytest.raises(ValueError, match="Train on its own data set"):
        teacher.check_data(X)
    data = inner.dataset(2, shuffle=True)
    teacher.prepare(SPEC, ())
    teacher.check_data(data)
    (batch,) = next(iter(data))
    assert teacher.answer(batch, None).logits.shape == (2, 3)
    (announcer,) = teacher.callbacks()
    first = [batch.inputs.numpy() for (batch,) in data]
    announcer.on_epoch_begin(1)
    again = [batch.inputs.numpy() for (batch,) in data]
    np.testing.assert_array_equal(first, again)
