"""Files that others made run in a child: what crashes there, or never ends, is an error here."""

import copy
import re
import threading

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from keras_distill import litert
from keras_distill.litert import child, process, server

MUTATIONS = 200
TRACEBACK = 'Traceback (most recent call last):\n  File "it.py", line 1, in run\n    run()\n'
CAUSE = r"exit code 1: RuntimeError: kernels/conv\.cc Node 3 (of it ){99}failed\.$"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A little convolutional network of int8, built by hand: no converter has seen it."""
    path = tmp_path_factory.mktemp("child") / "file.tflite"
    path.write_bytes(packed(network()))
    return path


def tensor(name, shape, buffer, kind=schema.TensorType.INT8):
    made = schema.TensorT()
    made.name, made.shape, made.buffer, made.type = name, shape, buffer, kind
    made.quantization = schema.QuantizationParametersT()
    made.quantization.scale, made.quantization.zeroPoint = [0.05], [0]
    return made


def network():
    """x (1, 6, 6, 2) -> convolution (3, 3) to 4 channels -> mean over the pixels."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.description = 3, "by hand"
    weights = np.arange(4 * 3 * 3 * 2, dtype="int8") % 7 - 3
    contents = [b"", weights.tobytes(), np.zeros(4, "int32").tobytes(), np.int32([1, 2]).tobytes()]
    model.buffers = []
    for content in contents:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(content, "uint8") if content else None
        model.buffers.append(buffer)
    graph.tensors = [
        tensor("x", [1, 6, 6, 2], 0),
        tensor("kernel", [4, 3, 3, 2], 1),
        tensor("bias", [4], 2, schema.TensorType.INT32),
        tensor("map", [1, 4, 4, 4], 0),
        tensor("axes", [2], 3, schema.TensorType.INT32),
        tensor("y", [1, 4], 0),
    ]
    graph.tensors[2].quantization.scale = [0.05 * 0.05]
    graph.tensors[4].quantization = None
    conv, mean = schema.OperatorT(), schema.OperatorT()
    conv.opcodeIndex, conv.inputs, conv.outputs = 0, [0, 1, 2], [3]
    conv.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
    conv.builtinOptions = schema.Conv2DOptionsT()
    conv.builtinOptions.padding = schema.Padding.VALID
    conv.builtinOptions.strideH = conv.builtinOptions.strideW = 1
    conv.builtinOptions.dilationHFactor = conv.builtinOptions.dilationWFactor = 1
    mean.opcodeIndex, mean.inputs, mean.outputs = 1, [3, 4], [5]
    mean.builtinOptionsType = schema.BuiltinOptions.ReducerOptions
    mean.builtinOptions = schema.ReducerOptionsT()
    graph.operators, graph.inputs, graph.outputs = [conv, mean], [0], [5]
    model.operatorCodes = []
    for builtin, version in (("CONV_2D", 3), ("MEAN", 2)):
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, builtin)
        code.version = version
        model.operatorCodes.append(code)
    model.subgraphs = [graph]
    return model


def packed(model):
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def mutated(model, rng):
    """The network with one thing of its structure wrong."""
    model = copy.deepcopy(model)
    graph = model.subgraphs[0]
    one = graph.tensors[rng.integers(len(graph.tensors))]
    operator = graph.operators[rng.integers(len(graph.operators))]
    number = int(rng.choice([-1, 0, 1, 2, 5, 6, 100, 2**31 - 1]))
    size = int(rng.choice([0, 1, 3, 64, 2**16, 2**31 - 1]))

    def change(values):
        values = list(values)
        values[rng.integers(len(values))] = number
        return values

    match rng.integers(9):
        case 0:
            one.shape = [size if rng.integers(2) else entry for entry in one.shape]
        case 1:
            one.shape = list(one.shape)[: rng.integers(len(one.shape) + 1)]
        case 2:
            one.type = int(rng.integers(0, 16))
        case 3:
            one.buffer = int(rng.integers(len(model.buffers)))
        case 4:
            operator.inputs = change(operator.inputs)
        case 5:
            operator.outputs = change(operator.outputs)
        case 6:
            code = model.operatorCodes[rng.integers(2)]
            code.builtinCode = int(rng.integers(0, 160))
            code.deprecatedBuiltinCode = min(code.builtinCode, 126)
        case 7:
            content = model.buffers[rng.integers(1, 4)]
            content.data = content.data[: rng.integers(len(content.data))]
        case 8:
            graph.inputs = change(graph.inputs)
    return model


def test_two_hundred_damaged_files_end_no_parent(file, tmp_path):
    x = np.ones((1, 6, 6, 2), "float32")
    whole = litert.load_tflite(file)
    assert whole.isolated
    expected = whole.predict(x)
    model, rng = network(), np.random.default_rng(0)
    ends = {}
    for number in range(MUTATIONS):
        path = tmp_path / f"{number}.tflite"
        path.write_bytes(packed(mutated(model, rng)))
        try:
            runner = litert.load_tflite(path)
            shape = [size or 1 for size in runner.inputs[0].shape]
            runner.predict(np.ones(shape, "float32" if runner.inputs[0].scale else "int32"))
            end = "answered"
        except litert.CrashError as error:
            end = "crashed" if str(path) in str(error) else "crashed, unnamed"
        except (ValueError, RuntimeError, TypeError, IndexError, MemoryError):
            end = "refused"
        ends[end] = ends.get(end, 0) + 1
    assert ends.keys() <= {"answered", "refused", "crashed"}
    # The child has died of some, and a file that was open goes on in the next one.
    assert ends["crashed"] > 0
    assert ends["refused"] > 0
    np.testing.assert_array_equal(whole.predict(x), expected)


def test_the_child_answers_as_this_process_would(file):
    x = np.random.default_rng(0).normal(size=(5, 6, 6, 2)).astype("float32")
    there, here = (litert.load_tflite(file, isolated=isolated) for isolated in (True, False))
    assert (there.inputs, there.outputs) == (here.inputs, here.outputs)
    np.testing.assert_array_equal(there.predict(x), here.predict(x))
    assert there.endings() == here.endings() == {"y": "MEAN"}
    with pytest.raises(ValueError, match="NaN"):
        there.predict(x * np.nan)


@pytest.mark.parametrize(("apart_s", "clocks"), [(0.001, 1), (0.6, 13)])
def test_each_run_has_its_time_and_quick_ones_share_a_clock(file, monkeypatch, apart_s, clocks):
    """Setting the clock starts a thread: it would cost ten times what a small run does."""
    now, asked = [0.0], []

    def later():
        now[0] += apart_s / 2
        return now[0]

    monkeypatch.setattr(server.time, "monotonic", later)
    monkeypatch.setattr(
        server.faulthandler, "dump_traceback_later", lambda limit, exit: asked.append(limit)
    )
    monkeypatch.setattr(server, "_sessions", {})
    about = {"number": 0, "limit_s": 10.0, "close": []}
    server.answer(about | {"open": [str(file), 1, None]}, [])
    asked.clear()
    (found,) = server.answer(about | {"batch_size": None}, [np.ones((12, 6, 6, 2), "float32")])[1]
    assert found.shape == (12, 4)
    assert len(asked) == clocks
    # However late in the clock's time a run begins, it has its 10 seconds.
    assert set(asked) == {10.1}


def test_a_file_that_this_process_made_runs_in_it(file, tmp_path):
    ours = tmp_path / "ours.tflite"
    ours.write_bytes(file.read_bytes() + b"\0")
    assert litert.load_tflite(ours).isolated
    litert.trust(ours)
    assert not litert.load_tflite(ours).isolated
    # Another content at the same place is another file.
    ours.write_bytes(file.read_bytes() + b"\1")
    assert litert.load_tflite(ours).isolated


def test_threads_share_the_child(file):
    x = np.random.default_rng(0).normal(size=(8, 6, 6, 2)).astype("float32")
    expected = litert.load_tflite(file).predict(x)
    wrong = []

    def work(rows):
        runner = litert.load_tflite(file)
        for _ in range(20):
            if not np.array_equal(runner.predict(x[:rows]), expected[:rows]):
                wrong.append(rows)

    threads = [threading.Thread(target=work, args=(rows,)) for rows in (1, 3, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_files_that_are_let_go_of_leave_the_child(file):
    for _ in range(3):
        litert.load_tflite(file)
    runner = litert.load_tflite(file)
    runner.predict(np.ones((1, 6, 6, 2), "float32"))
    assert not child._CLOSED


def test_an_interruption_leaves_no_half_answer(file, monkeypatch):
    runner = litert.load_tflite(file)
    x = np.ones((1, 6, 6, 2), "float32")
    expected = runner.predict(x)

    def interrupted(pipe):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(process, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            runner.predict(2 * x)
    np.testing.assert_array_equal(runner.predict(x), expected)


@pytest.mark.parametrize(
    ("code", "log", "words"),
    [
        (-11, "Fatal Python error\n" + "x" * 900, r"crashed \(SIGSEGV\)"),
        (-6, "", r"crashed \(SIGABRT\)"),
        (1, "Timeout (0:01:00)!\nThread", "did not come to an end"),
        (1, f"{TRACEBACK}RuntimeError: kernels/conv.cc\nNode 3 {'of it ' * 99}failed.", CAUSE),
        (1, "INFO: one\nabout to end", "exit code 1: about to end$"),
        (3, "", "exit code 3: it said nothing"),
    ],
)
def test_the_end_of_a_process_is_said_by_its_cause(code, log, words):
    assert re.search(words, child.words_of_exit(code, log))
