"""A call's arguments, taken apart, written down and put together."""

import numpy as np
import pytest
import tensorflow as tf

from keras_distill.edge.bridge.calls import Call


def is_tensor(value):
    return isinstance(value, str) and value.startswith("t")


def test_tensors_leave_slots_and_come_back():
    call, tensors = Call.of((["t1", 2], slice("t2", None)), {"by": {"k": ("t1",)}}, is_tensor)
    assert tensors == ["t1", "t2", "t1"]
    assert call.fill(["a", "b", "c"]) == ((["a", 2], slice("b", None)), {"by": {"k": ("c",)}})


def test_json_keeps_what_graphs_hold():
    args = ("t", (1, None), [Ellipsis, slice(1, None, 2)], tf.float16, tf.TensorShape([None, 3]))
    kwargs = {"table": np.arange(3, dtype="int8"), "flag": True, "nested": {"a": {2: "t"}}}
    call, _ = Call.of(args, kwargs, is_tensor)
    back = Call.from_json(call.to_json())
    np.testing.assert_array_equal(back.kwargs.pop("table"), call.kwargs.pop("table"))
    assert back.args[4].as_list() == call.args[4].as_list()
    assert (back.args[:4], back.kwargs) == (call.args[:4], call.kwargs)


def test_what_json_can_not_hold_is_named():
    call, _ = Call.of((object(),), {}, is_tensor)
    with pytest.raises(TypeError, match=r"builtins\.object"):
        call.to_json()
