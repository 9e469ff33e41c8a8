"""`--input-shape` of `keras-distill export`: one shape, or one an input."""

import pytest

from keras_distill.cli.export import _shapes


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ([], None),
        (["224,224,3"], (224, 224, 3)),
        (["128"], (128,)),
        (["49, 40"], (49, 40)),
        (["tokens=128"], {"tokens": (128,)}),
        (["a=5,4", "b=6"], {"a": (5, 4), "b": (6,)}),
    ],
)
def test_it_is_read(given, expected):
    assert _shapes(given) == expected


@pytest.mark.parametrize("given", [["8x8"], ["8,,3"], [""], ["a="], ["-1,3"], ["None,3"], ["1.5"]])
def test_what_is_no_shape_is_refused(given):
    with pytest.raises(ValueError, match=r"Expected --input-shape as 224,224,3 or tokens=128"):
        _shapes(given)


@pytest.mark.parametrize("given", [["8", "9"], ["8", "a=9"], ["a=9", "8"]])
def test_of_several_each_has_a_name(given):
    with pytest.raises(ValueError, match="Expected a name before each"):
        _shapes(given)


def test_a_name_stands_once():
    with pytest.raises(ValueError, match="'a' twice"):
        _shapes(["a=8", "a=9"])
