"""What kept a layer in float is left out of the file."""

from ai_edge_litert import schema_py_generated as schema

from keras_distill.litert.detours import straightened

REAL, COMPLEX = schema.TensorType.FLOAT32, schema.TensorType.COMPLEX64
NAMES = ("CAST", "REAL", "NEG", "COMPLEX_ABS")


def made(types, steps, outputs):
    """A graph of tensors of some types, and operators as (name, read, written)."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.subgraphs, model.operatorCodes = [graph], []
    for name in NAMES:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        model.operatorCodes.append(code)
    graph.tensors, graph.operators, graph.outputs = [], [], outputs
    for kind in types:
        tensor = schema.TensorT()
        tensor.type = kind
        graph.tensors.append(tensor)
    for name, read, written in steps:
        operator = schema.OperatorT()
        operator.opcodeIndex = NAMES.index(name)
        operator.inputs, operator.outputs = [read], [written]
        graph.operators.append(operator)
    return model


def steps_of(model):
    return [
        (NAMES[one.opcodeIndex], int(one.inputs[0]), int(one.outputs[0]))
        for one in model.subgraphs[0].operators
    ]


def test_there_and_back_is_left_out():
    steps = [("NEG", 0, 1), ("CAST", 1, 2), ("REAL", 2, 3), ("NEG", 3, 4)]
    model = made([REAL, REAL, COMPLEX, REAL, REAL], steps, [4])
    straightened(schema, model)
    assert steps_of(model) == [("NEG", 0, 1), ("NEG", 1, 4)]


def test_what_others_read_stays():
    steps = [("CAST", 0, 1), ("REAL", 1, 2), ("NEG", 2, 3), ("COMPLEX_ABS", 1, 4)]
    model = made([REAL, COMPLEX, REAL, REAL, REAL], steps, [3, 4])
    straightened(schema, model)
    assert steps_of(model) == [("CAST", 0, 1), ("NEG", 0, 3), ("COMPLEX_ABS", 1, 4)]
    # An output has a tensor of its own.
    steps = [("CAST", 0, 1), ("REAL", 1, 2)]
    model = made([REAL, COMPLEX, REAL], steps, [2])
    straightened(schema, model)
    assert steps_of(model) == steps
