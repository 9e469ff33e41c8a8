"""Losses on maps, channels last: where a layer looks, how its channels go together, at which scale.

A map is `(batch, ..., channels)` with one axis of positions or more, of known size: images, but
also sequences and volumes. Where the student's map and the teacher's differ in size, the larger is
average-pooled to the smaller, axis by axis.
"""

import functools
from collections.abc import Sequence

from keras import ops

from keras_distill.functional.map_tensors import (
    by_position,
    check_equal_channels,
    flat,
    map_pair,
    scaled,
    two_maps,
)
from keras_distill.functional.tensors import Tensor, adaptive_pool, match_sizes, per_example, unit

# The reference code's floor under a norm.
_SMALLEST_NORM = 1e-12


def attention_transfer(student: Tensor, teacher: Tensor, *, power: int = 2) -> Tensor:
    """Squared distance of two maps' attention: the mean over channels of the activations' powers.

    `mean_p (a_s / |a_s| - a_t / |a_t|)_p^2` over the positions p, with `a = mean_c x_c^power`.

    Args:
      student, teacher: `(batch, ..., channels)`; the channel counts may differ.
      power: a whole number of at least 1. An odd one keeps the activations' signs.

    Returns:
      `(batch,)`.

    Raises:
      ValueError: no maps, or maps of different rank.

    Source: Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, equation 2.
    The paper takes powers of absolute values and the norm of the difference; the authors' code, as
    here, signed powers and the mean of the squares.

    >>> float(attention_transfer([[[1.], [0.]]], [[[0.], [1.]]])[0])
    1.0
    """
    _check_power("power", power)
    student, teacher = map_pair("attention_transfer", student, teacher)
    return per_example(ops.square(_attention(student, power) - _attention(teacher, power)))


def factor_transfer(student: Tensor, teacher: Tensor, *, p1: int | None = 2, p2: int = 1) -> Tensor:
    """Distance of two factors, each scaled to length 1 over all of an example.

    `mean |f_s / |f_s| - f_t / |f_t||^p2` with `f = mean_c x_c^p1`, over the positions.

    Args:
      student, teacher: `(batch, ..., channels)`, what translator and paraphraser give.
      p1: the power under the mean over channels. None leaves the channels, which must then be
        equally many.
      p2: the power of the distance.

    Returns:
      `(batch,)`.

    Raises:
      ValueError: no maps, maps of different rank, or of different channel counts with p1=None.

    Source: Kim, Park, Kwak, "Paraphrasing Complex Network: Network Compression via Factor
    Transfer", NeurIPS 2018. There, and in the authors' code, the factor keeps its channels
    (p1=None); the mean of their squares is RepDistiller's.

    >>> float(factor_transfer([[[1.], [0.]]], [[[0.], [1.]]])[0])
    1.0
    """
    _check_power("p2", p2)
    student, teacher = map_pair("factor_transfer", student, teacher)
    if p1 is not None:
        _check_power("p1", p1)
        ours, theirs = _attention(student, p1), _attention(teacher, p1)
    else:
        check_equal_channels("factor_transfer with p1=None", student, teacher)
        ours, theirs = (_unit(flat(scaled(x)), axis=-1) for x in (student, teacher))
    return per_example(_to_the(ops.abs(ours - theirs), p2))


def inter_channel_correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """How far the channels' products with each other lie apart.

    `sum_cd (G_s / |G_s|_c - G_t / |G_t|_c)_cd^2 / channels` with `G_cd = sum_p x_pc x_pd` over the
    positions p, each row c scaled to length 1.

    Args:
      student, teacher: `(batch, ..., channels)`, equally many channels; the sizes may differ, and
        nothing is pooled.

    Returns:
      `(batch,)`.

    Raises:
      ValueError: no maps, or maps of different rank or channel counts.

    Source: Liu et al., "Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge
    Distillation", ICCV 2021, ICKD-C; the rows' lengths and the division by the channels once, not
    squared, are the authors' code's.

    >>> ours, theirs = [[[1., 0.], [0., 1.]]], [[[1., 1.], [0., 0.]]]  # rows 45 degrees apart
    >>> round(float(inter_channel_correlation(ours, theirs)[0]), 4)
    0.5858
    """
    student, teacher = two_maps("inter_channel_correlation", student, teacher)
    check_equal_channels("inter_channel_correlation", student, teacher)
    ours, theirs = (_unit(_between_channels(scaled(x)), axis=-1) for x in (student, teacher))
    return ops.sum(ops.square(ours - theirs), axis=(1, 2)) / student.shape[-1]


def neuron_selectivity(student: Tensor, teacher: Tensor) -> Tensor:
    """How far the student's channels, as a distribution of patterns over positions, lie apart.

    The squared maximum mean discrepancy under the kernel `k(a, b) = (a.b)^2`:
    `mean k(t, t) + mean k(s, s) - 2 mean k(s, t)` over pairs of channels, each channel's map
    scaled to length 1.

    Args:
      student, teacher: `(batch, ..., channels)`; the channel counts may differ.

    Returns:
      `(batch,)`.

    Raises:
      ValueError: no maps, or maps of different rank.

    Source: Huang and Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer",
    2017, with the polynomial kernel of d = 2, c = 0.

    >>> float(neuron_selectivity([[[1.], [0.]]], [[[0.], [1.]]])[0])
    2.0
    """
    pair = map_pair("neuron_selectivity", student, teacher)
    student, teacher = (_unit(by_position(x), axis=1) for x in pair)
    if student.shape[1] is not None and student.shape[1] <= max(student.shape[2], teacher.shape[2]):
        # The same sum, written over pairs of positions, which are fewer here.
        difference = _between_positions(teacher) - _between_positions(student)
        return ops.sum(ops.square(difference), axis=(1, 2))
    own = _polynomial_kernel(teacher, teacher) + _polynomial_kernel(student, student)
    return own - 2 * _polynomial_kernel(student, teacher)


def flow_of_solution(student_pair: Sequence[Tensor], teacher_pair: Sequence[Tensor]) -> Tensor:
    """Squared distance of two models' flows from a lower layer to an upper one.

    A flow is the matrix of products of the two layers' channels, averaged over positions:
    `mean_ij (G_s - G_t)_ij^2` with `G_ij = mean_p lower_pi upper_pj`.

    Args:
      student_pair, teacher_pair: the lower and the upper map of each model, `(batch, ...,
        channels)`. The lower maps have equally many channels, and so have the upper. Within a pair
        the larger map is pooled; the two models' sizes may differ.

    Returns:
      `(batch,)`.

    Raises:
      ValueError: no pairs of maps, or channel counts that differ.

    Source: Yim et al., "A Gift from Knowledge Distillation", CVPR 2017, equations 1 and 2. The
    paper sums the squares.

    >>> ones, twos = [[[1.], [1.]]], [[[2.], [2.]]]
    >>> float(flow_of_solution((ones, ones), (ones, twos))[0])
    1.0
    """
    ours, theirs = (_flow(pair) for pair in (student_pair, teacher_pair))
    if ours.shape[1:] != theirs.shape[1:]:
        raise ValueError(
            f"flow_of_solution: the student's layers have {ours.shape[1]} and {ours.shape[2]} "
            f"channels and the teacher's {theirs.shape[1]} and {theirs.shape[2]}. Project the "
            f"student's first (FlowOfSolution does it by itself)."
        )
    return per_example(ops.square(ours - ops.cast(theirs, ours.dtype)))


def hierarchical_context(students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
    """Squared distance of maps at several scales, added over pairs of maps.

    At full size, then pooled to 4, 2 and 1 positions an axis where the map is higher than that,
    with weights 1, 1/2, 1/4, 1/8 over the sum of those used; each distance is a mean.

    Args:
      students, teachers: equally long lists of maps `(batch, ..., channels)`, of equal channels
        pair by pair.

    Returns:
      `(batch,)`.

    Raises:
      ValueError: the lists differ in length, or two maps in rank or channels.

    Source: Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021 (its HCL).

    >>> high, flat = [[[[1.]], [[-1.]]]], [[[[0.]], [[0.]]]]
    >>> round(float(hierarchical_context([high], [flat])[0]), 4)
    0.6667
    """
    if len(students) != len(teachers) or not len(students):
        raise ValueError(
            f"hierarchical_context compares maps pair by pair; got {len(students)} of the "
            f"student's and {len(teachers)} of the teacher's."
        )
    return sum(_context(*pair) for pair in zip(students, teachers, strict=True))


def _context(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = match_sizes(
        *two_maps("hierarchical_context", student, teacher, open_axes=False)
    )
    check_equal_channels("hierarchical_context", student, teacher)
    # Pooling is linear: the difference is pooled once in place of both maps.
    difference = student - teacher
    levels = [None, *(level for level in (4, 2, 1) if level < difference.shape[1])]
    weights = [0.5**index for index in range(len(levels))]
    distances = [per_example(ops.square(_pooled(difference, level))) for level in levels]
    terms = (w * distance for w, distance in zip(weights, distances, strict=True))
    return sum(terms) / sum(weights)


def _pooled(x: Tensor, level: int | None) -> Tensor:
    for axis in range(1, len(x.shape) - 1):
        x = adaptive_pool(x, axis, min(level or x.shape[axis], x.shape[axis]))
    return x


def _flow(pair: Sequence[Tensor]) -> Tensor:
    if len(pair) != 2:
        raise ValueError(
            f"flow_of_solution needs two layers of each model, the lower and the upper; got "
            f"{len(pair)}."
        )
    who = ("lower", "upper")
    lower, upper = map(by_position, map_pair("flow_of_solution", pair[0], pair[1], who))
    positions = ops.cast(ops.shape(lower)[1], lower.dtype)
    return ops.matmul(ops.transpose(lower, (0, 2, 1)), upper) / positions


def _attention(x: Tensor, power: int) -> Tensor:
    """The mean over channels of x^power, over the positions at length 1."""
    return _unit(flat(ops.mean(_to_the(scaled(x), power), axis=-1, keepdims=True)), axis=-1)


def _polynomial_kernel(first: Tensor, second: Tensor) -> Tensor:
    products = ops.matmul(ops.transpose(first, (0, 2, 1)), second)
    return ops.mean(ops.square(products), axis=(1, 2))


def _between_channels(x: Tensor) -> Tensor:
    x = by_position(x)
    return ops.matmul(ops.transpose(x, (0, 2, 1)), x)


def _between_positions(x: Tensor) -> Tensor:
    return ops.matmul(x, ops.transpose(x, (0, 2, 1))) / x.shape[2]


def _unit(x: Tensor, axis: int) -> Tensor:
    return unit(x, axis, _SMALLEST_NORM)


def _to_the(x: Tensor, power: int) -> Tensor:
    return functools.reduce(ops.multiply, [x] * power)


def _check_power(name: str, power: float | Tensor) -> None:
    if not isinstance(power, int) or power < 1:
        raise ValueError(f"{name} must be a whole number of at least 1; got {power!r}.")
