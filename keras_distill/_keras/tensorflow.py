"""What is used of TensorFlow's private parts, read from TensorFlow 2.21."""

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import kernels, ops
from tensorflow.python.grappler import tf_optimizer
from tensorflow.python.ops import resource_variable_ops

# Operations on graphs of their own, which no other graph shares.
_WITH_BRANCHES = frozenset(
    {"If", "StatelessIf", "Case", "StatelessCase", "While", "StatelessWhile"}
)


def upstream(dataset: tf.data.Dataset) -> Iterator[tuple[tf.data.Dataset, int]]:
    """A data set, those that it was made of, and how often one pass over it passes over each.

    How often is -1 where it repeats for ever. `Dataset._inputs`, and
    `_RepeatDataset._count`. Without them a data set is made of nothing.
    """
    waiting = [(dataset, 1)]
    while waiting:
        one, times = waiting.pop()
        yield one, times
        count = getattr(one, "_count", 1) if type(one).__name__ == "_RepeatDataset" else 1
        count = int(count)
        times = -1 if -1 in (times, count) else times * count
        waiting += [(source, times) for source in getattr(one, "_inputs", tuple)()]


def reshuffled(dataset: tf.data.Dataset) -> bool:
    """Whether a data set is shuffled anew at each pass, and not kept by a `cache()` since.

    `_ShuffleDataset._reshuffle_each_iteration`, `CacheDataset`. Without
    them it is never known.
    """
    if type(dataset).__name__ == "CacheDataset":
        return False
    if type(dataset).__name__ == "_ShuffleDataset":
        return bool(getattr(dataset, "_reshuffle_each_iteration", False))
    return any(reshuffled(source) for source in getattr(dataset, "_inputs", tuple)())


def graph_of_function(graph: Any, name: str) -> Any:
    """The graph of a function that a graph calls by name; None where it knows none of that name.

    `FuncGraph._get_function`.
    """
    function = graph._get_function(name)
    return None if function is None else function.graph


def rewritten(config: Any, meta: Any) -> Any:
    """The GraphDef of a MetaGraphDef after grappler's passes that a ConfigProto asks for.

    `tf_optimizer.OptimizeGraph`. Without it there are no half-precision
    engines.
    """
    return tf_optimizer.OptimizeGraph(config, meta)


def devices_of(operation: str) -> set[str]:
    """The devices that an operation has kernels for (`get_registered_kernels_for_op`)."""
    return {k.device_type for k in kernels.get_registered_kernels_for_op(operation).kernel}


@contextlib.contextmanager
def outside_the_trace() -> Iterator[None]:
    """Variables made in here are made as they would be in no `tf.function`.

    Where one is made by the function's own creator, TensorFlow traces the function twice.
    `default_variable_creator_v2`; under a strategy the variables are the strategy's, as ever.
    """
    if tf.distribute.has_strategy():
        yield
        return

    def creator(next_creator: Any, **options: Any) -> Any:
        return resource_variable_ops.default_variable_creator_v2(**options)

    with tf.init_scope(), tf.variable_creator_scope(creator):
        yield


def forget_custom_gradients() -> None:
    """Frees the graph being traced of what `tf.custom_gradient` made in it, once tapes are done.

    TensorFlow registers a function for each and never forgets it (`gradient_registry._registry`),
    and so would hold the graph for good, and all that it reads. Keras' optimisers make one a trace.
    Functions that the graph calls keep theirs: other graphs may call them as well.
    """
    if tf.executing_eagerly():
        return
    waiting = [ops.get_default_graph()]
    while waiting:
        graph = waiting.pop()
        for made in graph.get_operations():
            if made.type == "IdentityN":
                name = made.node_def.attr["_gradient_op_type"].s.decode()
                ops.gradient_registry._registry.pop(name, None)
            elif made.type in _WITH_BRANCHES:
                attributes = made.node_def.attr.values()
                names = {f.name for a in attributes for f in (a.func, *a.list.func) if f.name}
                waiting += [one for n in names if (one := graph_of_function(graph, n)) is not None]
