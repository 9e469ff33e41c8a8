"""How many channels stay, and which."""

import numpy as np
import pytest

from keras_distill.transfer.width import selection
from keras_distill.transfer.width.channels import Channels, Group


def group(size, start=0, fixed=(), parts=1):
    members = np.zeros(size, bool)
    members[list(fixed)] = True
    return Group(
        (f"layer{start}",), np.arange(start, start + size), members, np.arange(size) * parts // size
    )


def channels(*groups):
    return Channels(None, sum(len(g.classes) for g in groups), {}, groups, {})


@pytest.mark.parametrize(
    ("size", "width", "multiple_of", "expected"),
    [
        (8, 0.5, 1, 4),
        (5, 0.5, 1, 3),  # 2.5, half up
        (7, 0.5, 1, 4),  # 3.5, half up
        (24, 0.5, 8, 16),  # 12 is one and a half eights
        (20, 0.5, 8, 8),  # 10 is nearer to 8 than to 16
        (4, 0.5, 8, 2),  # narrower than the multiple: by ones
        (16, 0.1, 8, 8),  # never none
        (16, 1.0, 8, 16),
    ],
)
def test_a_width_is_rounded_to_the_multiple(size, width, multiple_of, expected):
    assert selection.counts([group(size)], [size], width, multiple_of) == [expected]


def test_blocks_and_fixed_channels_bound_the_size():
    # Four parts: sizes go by fours. 0.4 x 16 = 6.4, nearer to 8 than to 4.
    assert selection.counts([group(16, parts=4)], [16], 0.4, 1) == [8]
    # 3 and 8 together: by 24, which 48 has room for and 18 has not.
    assert selection.unit(group(48, parts=3), 8) == 24
    assert selection.unit(group(18, parts=3), 8) == 3
    # Five must stay.
    assert selection.counts([group(8, fixed=range(5))], [8], 0.25, 1) == [5]
    # Both of a part's two must stay, so the other part keeps two as well.
    assert selection.smallest(group(8, fixed=(0, 1), parts=2), 1) == 4


def test_a_width_is_a_share_of_the_first_size():
    # Cut from 16 to 12 already: a half of 16 is 8, not 6; and no more than there is.
    assert selection.counts([group(12)], [16], 0.5, 1) == [8]
    assert selection.counts([group(12)], [16], 0.9, 1) == [12]


def test_the_best_stay_and_of_equals_the_first():
    ours = channels(group(6), group(2, start=6))
    scores = np.array([0.0, 5.0, 1.0, 5.0, 1.0, 0.0, 7.0, 7.0])
    kept = selection.select(ours, [3, 1], scores)
    np.testing.assert_array_equal(np.flatnonzero(kept), [1, 2, 3, 6])


def test_fixed_ones_stay_first_and_parts_keep_equally_many():
    kept = selection.select(channels(group(4, fixed=(3,))), [2], np.array([9.0, 8.0, 7.0, 0.0]))
    np.testing.assert_array_equal(np.flatnonzero(kept), [0, 3])
    # All large ones are in the first part; each part keeps its best.
    kept = selection.select(channels(group(4, parts=2)), [2], np.array([9.0, 8.0, 1.0, 2.0]))
    np.testing.assert_array_equal(np.flatnonzero(kept), [0, 3])


def test_ranked_across_groups():
    # Of ten channels the best half: 9 8 7 of the first, 6 5 of the second.
    first, second = group(4), group(6, start=4)
    scores = np.array([9.0, 8.0, 7.0, 1.0, 6.0, 5.0, 0.5, 0.4, 0.3, 0.2])
    assert selection.counts_by_rank([first, second], scores, 0.5, 1) == [3, 2]
    # Three tenths would leave the second with none: one stays.
    assert selection.counts_by_rank([first, second], scores, 0.3, 1) == [3, 1]
