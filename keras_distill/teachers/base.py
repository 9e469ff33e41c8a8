"""What a teacher is to a Distiller."""

from typing import Any

from keras_distill.signals import Signals

__all__ = ["Absent", "Teacher"]


class Teacher:
    """Where the knowledge comes from. No Keras object, so that no checkpoint takes it along."""

    def prepare(self, input_spec: Any, taps: tuple) -> Signals:
        """Make ready to answer.

        Args:
          input_spec: `keras.KerasTensor`s of the inputs the teacher will see, or None where only
            the teacher can know them.
          taps: layers whose outputs the objectives ask for.

        Returns:
          Signals of `keras.KerasTensor`s, batch None.
        """
        if type(self).build is Teacher.build:
            raise NotImplementedError(f"{type(self).__name__} defines no prepare.")
        return self.build(input_spec, taps)

    # Of any arguments, for `TeacherCache.build` makes a cache.
    def build(self, *args: Any, **kwargs: Any) -> Any:
        """`prepare`, which a teacher from outside the package may define by this name."""
        return self.prepare(*args, **kwargs)

    def __call__(self, x: Any) -> Signals:
        """The teacher's Signals for one batch, in inference, with no gradient."""
        raise NotImplementedError(f"{type(self).__name__} defines no __call__.")

    def meet(self, student: Any) -> None:
        """Called before `prepare` with the model that is to learn.

        Raises:
          ValueError: the teacher is bound to another one.
        """

    def answer(self, x: Any, labels: Any) -> Signals:
        """What training asks: the Signals for one batch whose labels are known, or None.

        Most teachers look at `x` alone.
        """
        return self(x)

    def undisturbed(self, x: Any, labels: Any) -> Signals:
        """What evaluation asks: as `answer`, without noise, and no variable of it moves."""
        return self.answer(x, labels)

    @property
    def state(self) -> tuple:
        """Variables that training moves and a checkpoint must hold, to resume where it was."""
        return ()

    @property
    def cached(self) -> bool:
        """Whether it answers for the batches of its own data set only, which `fit` then takes."""
        return False

    def kinds(self) -> dict[str | None, str]:
        """What its models' outputs are by head, as far as is known once it is prepared.

        "logits", "probabilities" or "sigmoid": Signals do not tell of a softmax whose input they
        hold.
        """
        return {}

    def after_update(self, iterations: Any) -> None:
        """Called in the graph after each update of the student's optimiser."""

    def fingerprint(self) -> str:
        """A digest of what the answers depend on."""
        raise NotImplementedError(f"{type(self).__name__} defines no fingerprint.")

    @property
    def revision(self) -> int:
        """How often `refresh` found that training must be traced anew, whoever called it."""
        return 0

    def refresh(self) -> bool:
        """Take up what changed since the last call; True where training must be traced anew."""
        return False

    def count_params(self) -> int | None:
        """Number of weights, None where it is not known."""
        return None

    def check_data(self, x: Any) -> None:
        """Refuse what `fit` was given where this teacher can't answer for it.

        Args:
          x: the first argument of `fit`.

        Raises:
          ValueError: with the mend.
        """

    def check_evaluated(self, x: Any) -> None:
        """Refuse what `compile(validate_objectives=True)` would ask about in evaluation.

        Args:
          x: inputs, or the data set that holds them.

        Raises:
          ValueError: with the mend.
        """

    def callbacks(self) -> list:
        """Keras callbacks that `fit` runs besides the caller's."""
        return []

    def jit_compile(self, asked: Any) -> Any:
        """What `compile(jit_compile=)` becomes with this teacher.

        Args:
          asked: True, False or "auto", which means XLA wherever there is a GPU.

        Raises:
          ValueError: XLA was asked for outright and can't take this teacher.
        """
        return asked


class Absent(Teacher):
    """Stands in for the teacher of a saved distiller until one is given."""

    def __init__(self, signals: Signals):
        self._signals = signals
        # What a file held of the teacher that is to come.
        self.held: list = []

    def prepare(self, input_spec: Any, taps: tuple) -> Signals:
        return self._signals

    def __call__(self, x: Any) -> Signals:
        raise ValueError(
            "This distiller was loaded without its teacher, so it evaluates and predicts only. "
            "To train on: keras_distill.Distiller.load(path, teacher)."
        )

    def check_data(self, x: Any) -> None:
        self(x)

    def fingerprint(self) -> str:
        return "absent"
