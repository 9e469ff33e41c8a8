"""A loss on how alike the positions of a map are to each other."""

from keras import ops

from keras_distill.functional.map_tensors import by_position, map_pair, scaled
from keras_distill.functional.relations import unit_or_zero
from keras_distill.functional.tensors import Tensor, per_example


def pairwise_affinity(
    student: Tensor, teacher: Tensor, *, pool_scale: float | None = 0.5
) -> Tensor:
    """Squared distance of two maps' affinities, the cosines between every two positions.

    `mean_ij (cos(s_i, s_j) - cos(t_i, t_j))^2` over all pairs of nodes. A node is the largest
    number, channel by channel, of a patch of positions.

    Args:
      student, teacher: `(batch, ..., channels)`; the channel counts may differ. Where the sizes
        differ, the larger map is average-pooled before all else.
      pool_scale: a patch's size, as a share of each axis, in (0, 1): rounded down, at least one
        position; the last patch may be smaller. At 0.5 an image of even size has four nodes. None
        takes each position for a node. Memory grows as the square of the nodes.

    Returns:
      `(batch,)`.

    Raises:
      ValueError: no maps, maps of different rank, a scale out of range, or with a scale a map of
        unknown size.

    Source: Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019,
    the pair-wise part; patches as in the authors' code. That holds the features' lengths constant
    under the gradient, which here is the cosines' own: it turns a feature and does not stretch it.

    >>> ours, theirs = [[[1., 0.], [0., 1.]]], [[[1.], [1.]]]  # two positions, at 90 degrees and 0
    >>> float(pairwise_affinity(ours, theirs)[0])  # 1 in two of four pairs
    0.5
    """
    _check_scale(pool_scale)
    pair = map_pair("pairwise_affinity", student, teacher)
    ours, theirs = (_affinities(_nodes(scaled(x), pool_scale)) for x in pair)
    return per_example(ops.square(ours - theirs))


def _affinities(nodes: Tensor) -> Tensor:
    # A position where no channel is on has no direction, and no gradient.
    directions = unit_or_zero(by_position(nodes))
    return ops.matmul(directions, ops.transpose(directions, (0, 2, 1)))


def _nodes(x: Tensor, pool_scale: float | None) -> Tensor:
    if pool_scale is None:
        return x
    if None in x.shape[1:-1]:
        raise ValueError(
            f"pairwise_affinity pools by a share of each axis, and the maps are {tuple(x.shape)}: "
            f"give both models a fixed input size, or pool_scale=None."
        )
    for axis in range(1, len(x.shape) - 1):
        x = _largest_of_patches(x, axis, max(int(x.shape[axis] * pool_scale), 1))
    return x


def _largest_of_patches(x: Tensor, axis: int, patch: int) -> Tensor:
    count = -(-x.shape[axis] // patch)
    missing = count * patch - x.shape[axis]
    if missing:
        padding = [(0, missing if at == axis else 0) for at in range(len(x.shape))]
        x = ops.pad(x, padding, constant_values=-float("inf"))
    shape = [-1, *x.shape[1:axis], count, patch, *x.shape[axis + 1 :]]
    return ops.max(ops.reshape(x, shape), axis=axis + 1)


def _check_scale(pool_scale: float | None) -> None:
    if pool_scale is not None and not 0 < pool_scale < 1:
        raise ValueError(f"pool_scale must be None or in (0, 1); got {pool_scale}.")
