"""Losses on how the examples of a batch lie to each other, and to examples of earlier batches.

Value i is example i's row of the comparison: leaving it out leaves the others' values as they are,
with example i still among their partners.
"""

from typing import Any

from keras import ops

from keras_distill.functional.tensors import Tensor, at_least_float32, check_positive, check_several


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the two models' matrices of similarities between examples.

    `sum_j (G_s / |G_s|_row - G_t / |G_t|_row)_ij^2 / batch` with `G = F F^T`, each row of G scaled
    to length 1.

    Args:
      student, teacher: `(batch, ...)`, flattened; the widths may differ.

    Returns:
      `(batch,)`.

    Raises:
      ValueError: the batch holds one example, or the two batches differ.

    Source: Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019.

    >>> float(similarity_preserving([[1., 0.], [0., 1.]], [[1.], [0.]])[1])
    0.5
    """
    student, teacher = _flat_pair("similarity_preserving", student, teacher)
    difference = unit_or_zero(_inner_products(student)) - unit_or_zero(_inner_products(teacher))
    return ops.sum(ops.square(difference), axis=1) / _count(student)


def relational_kd(
    student: Tensor, teacher: Tensor, *, distance_weight: float = 25.0, angle_weight: float = 50.0
) -> Tensor:
    """Huber loss of the distances between examples and of the angles at each example.

    Distances are relative to their mean over all pairs. Row i holds the distances from example i,
    and the cosines of the angles at i between every two others. Means are taken over all of
    `batch^2` and `batch^3`, the pairs and triples with an example twice included.

    Args:
      student, teacher: `(batch, ...)`, flattened; the widths may differ. Memory grows as
        batch^2 x width and batch^3: give it vectors rather than large maps.
      distance_weight, angle_weight: factors of the two parts.

    Returns:
      `(batch,)`.

    Raises:
      ValueError: the batch holds one example, or the two batches differ.

    Source: Park et al., "Relational Knowledge Distillation", CVPR 2019.

    >>> float(relational_kd([[0.], [1.], [3.]], [[0.], [2.], [6.]])[0])
    0.0
    """
    student, teacher = _flat_pair("relational_kd", student, teacher)
    ours, theirs = _differences(student), _differences(teacher)
    distances = _huber(_relative_distances(ours) - _relative_distances(theirs))
    angles = _huber(_angles(ours) - _angles(theirs))
    return distance_weight * ops.mean(distances, axis=1) + angle_weight * ops.mean(
        angles, axis=(1, 2)
    )


def probabilistic_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence between the distributions of neighbours of each example.

    Cosine similarities, brought from [-1, 1] to [0, 1], are made a distribution over the batch,
    row by row. The sum over neighbours is divided by the batch's size, as reference code does.

    Args:
      student, teacher: `(batch, ...)`, flattened; the widths may differ.

    Returns:
      `(batch,)`.

    Raises:
      ValueError: the batch holds one example, or the two batches differ.

    Source: Passalis and Tefas, "Learning Deep Representations with Probabilistic Knowledge
    Transfer", ECCV 2018.

    >>> bool(probabilistic_transfer([[1., 0.], [0., 1.]], [[1., 0.], [1., 0.]])[0] > 0)
    True
    """
    student, teacher = _flat_pair("probabilistic_transfer", student, teacher)
    ours, theirs = _neighbours(student), _neighbours(teacher)
    return ops.mean(theirs * ops.log((theirs + _PKT_EPSILON) / (ours + _PKT_EPSILON)), axis=1)


def correlation_congruence(student: Tensor, teacher: Tensor) -> Tensor:
    """How alike the errors of examples next to each other in the batch are.

    `sum_c |s - t|_i |s - t|_i+1`, averaged over the batch - 1 neighbouring pairs; half of each
    pair's value goes to either of its examples. This is the authors' code; their paper compares
    the two models' kernel matrices over the whole batch.

    Args:
      student, teacher: `(batch, ...)` of equal width once flattened.

    Returns:
      `(batch,)`.

    Raises:
      ValueError: the batch holds one example, or the batches or the widths differ.

    Source: Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV 2019.

    >>> [float(v) for v in correlation_congruence([[1.], [2.], [3.]], [[0.], [0.], [0.]])]
    [1.5, 6.0, 4.5]
    """
    student, teacher = _flat_pair("correlation_congruence", student, teacher)
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"correlation_congruence compares number by number: the student has "
            f"{student.shape[1]} an example and the teacher {teacher.shape[1]}. Project one of "
            f"them first (CorrelationCongruence does it by itself)."
        )
    error = ops.abs(student - teacher)
    pairs = ops.sum(error[:-1] * error[1:], axis=1)
    none = ops.zeros_like(error[:1, 0])
    shared = ops.concatenate([none, pairs]) + ops.concatenate([pairs, none])
    batch = _count(student)
    return shared * batch / (2 * ops.maximum(batch - 1, 1))


def contrastive_representation(
    student: Tensor, teacher: Tensor, negatives: Any, *, temperature: float = 0.07
) -> Tensor:
    """Cross-entropy of finding an example's own teacher embedding among other examples'.

    `-log(exp(s.t / T) / (exp(s.t / T) + sum_k exp(s.n_k / T)))`: InfoNCE, in nats.

    Args:
      student, teacher: `(batch, width)`, rows of length 1, of the same examples.
      negatives: `(count, width)`, rows of length 1: the teacher's embeddings of other examples.
      temperature: T > 0.

    Returns:
      `(batch,)`.

    Raises:
      ValueError: T is not positive.

    Source: van den Oord et al., "Contrastive Predictive Coding", 2018, equation 4; as a loss from
    teacher to student, Tian et al., "Contrastive Representation Distillation", ICLR 2020.

    >>> one, other = [[1., 0.]], [[0., 1.]]
    >>> round(float(contrastive_representation(one, one, other, temperature=1.0)[0]), 4)
    0.3133
    """
    check_positive("temperature", temperature)
    student = at_least_float32(student)
    teacher, negatives = (ops.cast(t, student.dtype) for t in (teacher, negatives))
    own = ops.sum(student * teacher, axis=1, keepdims=True)
    others = ops.matmul(student, ops.transpose(negatives))
    logits = ops.concatenate([own, others], axis=1) / temperature
    return ops.logsumexp(logits, axis=1) - logits[:, 0]


def noise_contrastive(
    positives: Tensor, negatives: Tensor, *, log_constant: Tensor, examples: int
) -> Tensor:
    """Cross-entropy of telling an example's own partner from those that were drawn at random.

    `-log h(p) - sum_k log(1 - h(n_k))` with `h(x) = q / (q + K / examples)` and
    `q = exp(x) / constant`, the chance of an example's partner among all: noise-contrastive
    estimation, in nats, with noise that draws every example alike.

    Args:
      positives: `(batch,)`, the inner products of an example's two embeddings over a temperature.
      negatives: `(batch, K)`, those with the embeddings of K examples drawn at random.
      log_constant: the logarithm of what makes q a distribution over the examples: about the mean
        of `exp(x)` times their number.
      examples: how many there are.

    Returns:
      `(batch,)`.

    Source: Gutmann and Hyvarinen, "Noise-contrastive Estimation", AISTATS 2010; as a loss between
    two models' embeddings Tian et al., "Contrastive Representation Distillation", ICLR 2020,
    equation 18. The authors' code adds 1e-7 to the denominators; here logarithms of sigmoids need
    none.

    >>> round(float(noise_contrastive([0.], [[0., 0.]], log_constant=0., examples=2)[0]), 4)
    2.0794
    """
    positives = at_least_float32(positives)
    negatives = ops.cast(negatives, positives.dtype)
    noise = ops.log(ops.cast(negatives.shape[1] / examples, positives.dtype))
    noise = noise + ops.cast(log_constant, positives.dtype)
    return ops.softplus(noise - positives) + ops.sum(ops.softplus(negatives - noise), axis=1)


# The reference code's constants, without which its values can't be met.
_PKT_EPSILON = 1e-7
_RKD_SMALLEST_SQUARE = 1e-12


def _flat_pair(function: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both as `(batch, width)` in one dtype of at least float32."""
    student, teacher = _flat(at_least_float32(student)), _flat(at_least_float32(teacher))
    batches = student.shape[0], teacher.shape[0]
    if None not in batches and batches[0] != batches[1]:
        raise ValueError(
            f"{function}: the student's batch holds {batches[0]} examples and the teacher's "
            f"{batches[1]}. Give both models the same examples."
        )
    check_several(function, student)
    return student, ops.cast(teacher, student.dtype)


def _flat(x: Tensor) -> Tensor:
    return ops.reshape(x, (ops.shape(x)[0], -1)) if len(x.shape) != 2 else x


def _count(x: Tensor) -> Tensor:
    return ops.cast(ops.shape(x)[0], x.dtype)


def _inner_products(x: Tensor) -> Tensor:
    return ops.matmul(x, ops.transpose(x))


def unit_or_zero(x: Tensor, epsilon: float = 0.0) -> Tensor:
    """Vectors along the last axis at length 1; a zero vector stays zero, without a gradient."""
    square = ops.sum(ops.square(x), axis=-1, keepdims=True)
    length = ops.sqrt(ops.where(square > 0, square, ops.ones_like(square)))
    return x * ops.where(square > 0, 1 / (length + epsilon), ops.zeros_like(square))


def _neighbours(x: Tensor) -> Tensor:
    unit = unit_or_zero(x, _PKT_EPSILON)
    similarity = (_inner_products(unit) + 1) / 2
    return similarity / ops.sum(similarity, axis=1, keepdims=True)


def _differences(x: Tensor) -> Tensor:
    """`[i, j] = x_j - x_i`. Written out: from inner products, near examples would cancel."""
    return x[None, :, :] - x[:, None, :]


def _relative_distances(differences: Any) -> Tensor:
    square = ops.sum(ops.square(differences), axis=-1)
    batch = _count(square)
    elsewhere = 1 - ops.eye(ops.shape(square)[0], dtype=square.dtype)
    distances = ops.sqrt(ops.maximum(square, _RKD_SMALLEST_SQUARE)) * elsewhere
    mean = ops.sum(distances) / ops.maximum(batch * (batch - 1), 1)
    return distances / ops.where(mean > 0, mean, ops.ones_like(mean))


def _angles(differences: Any) -> Tensor:
    """`[i, j, k]`: the cosine of the angle at example i between j and k."""
    unit = unit_or_zero(differences)
    return ops.matmul(unit, ops.transpose(unit, (0, 2, 1)))


def _huber(x: Tensor) -> Tensor:
    size = ops.abs(x)
    return ops.where(size < 1, 0.5 * ops.square(x), size - 0.5)
