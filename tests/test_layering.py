"""The package's imports, read from its source: they point only up `ORDER`."""

import ast
import copy
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "keras_distill"
ORDER = [
    "_extras",
    "_pages",
    "_records",
    "_keras",
    "_json",
    "_files",
    "progress",
    "schedules",
    "functional",
    "datasets",
    "data",
    "graph",
    "litert",
    "signals",
    "objectives",
    "teachers",
    "training",
    "transfer",
    "measures",
    "edge",
    "explaining",
    "judging",
    "pipeline",
    "cli",
]
MODULES = sorted(PACKAGE.rglob("*.py"))
# The homes of what frameworks keep private, LiteRT's in a file that its child has, too.
PRIVATE_HOMES = ("keras_distill/_keras/", "keras_distill/litert/_interpreter.py")
PRIVATE_MODULE = re.compile(
    r"(keras\.src|tensorflow\.python|tensorflow_model_optimization\.python|\bkeras\._tf_keras)\b"
)
PAST_TRACKING = "object.__setattr__(self, "
ATTRIBUTE_CALLS = ("getattr", "setattr", "hasattr", "delattr", "object.__setattr__")
# Named tuples' own, Python's, and what Distillers and teachers tell `explaining` of themselves.
NOBODYS = {"_replace", "_fields", "_exit"}
NOBODYS |= {"_student_preprocess", "_teacher_preprocess", "_student_output"}
NOBODYS |= {"_model", "_student", "_taps_from"}
LEGACY = {"tf_keras", "tensorflow_model_optimization"}
AMBIGUOUS = ("tf.keras", "tensorflow.keras")


def dotted(path):
    """keras_distill/edge/__init__.py -> ("keras_distill", "edge")."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def floor(path):
    """The entry of ORDER that a file belongs to; None for the package's own face."""
    parts = dotted(path)
    return parts[1] if len(parts) > 1 else None


@functools.cache
def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path, tree):
    """Every module named by an import anywhere in a file, absolute, as tuples of parts."""
    package = dotted(path) if path.name == "__init__.py" else dotted(path)[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            yield from ((*base, alias.name) for alias in node.names)


def ours(path, tree):
    names = [parts for parts in imported(path, tree) if parts[0] == "keras_distill"]
    return {parts[1] for parts in names if parts[1:]}


def eager_imports(path):
    """The modules that a file imports when it is imported, without their packages."""
    tree = copy.deepcopy(parse(path))
    for node in ast.walk(tree):
        lazy = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if lazy or isinstance(node, ast.FunctionDef | ast.Lambda):
            node.body = []
    names = set(imported(path, tree))
    modules = {dotted(other) for other in MODULES}
    return {name if name in modules else name[:-1] for name in names} & modules


def identify(path):
    return path.relative_to(ROOT).as_posix()


def guilty(wrong, paths=MODULES):
    """What `wrong` finds in each file, by file, where it finds anything."""
    found = {identify(path): wrong(path, parse(path)) for path in paths}
    return {path: said for path, said in found.items() if said}


def test_imports_point_only_up():
    def downwards(path, tree):
        here = floor(path)
        if here is None:  # The flat public names come from everywhere.
            return set()
        assert here in ORDER, f"{identify(path)}: give {here!r} its place in ORDER"
        return ours(path, tree) - {*ORDER[: ORDER.index(here)], here, "__version__"}

    assert not guilty(downwards)


def test_no_module_waits_for_itself():
    graph = {
        ".".join(dotted(path)): {".".join(name) for name in eager_imports(path)} for path in MODULES
    }
    # What nothing imports, or what imports nothing, is in no circle.
    while True:
        wanted = set().union(*graph.values()) & set(graph)
        left = {name: found & set(graph) for name, found in graph.items() if name in wanted}
        left = {name: found for name, found in left.items() if found & set(left)}
        if left.keys() == graph.keys():
            break
        graph = left
    assert not graph


def test_the_foundations_import_nothing_of_ours():
    def ours_besides(path, tree):
        return floor(path) in ("schedules", "functional") and ours(path, tree) - {floor(path)}

    assert not guilty(ours_besides)


def test_only_the_command_line_imports_the_pipeline():
    def pipeline(path, tree):
        # `kd.pipeline` is imported when it is asked for.
        above = floor(path) in ("pipeline", "cli") or path == PACKAGE / "__init__.py"
        return not above and {"pipeline"} & ours(path, tree)

    assert not guilty(pipeline)


def test_keras_2_comes_in_lazily_and_only_for_edge():
    def eager(path, tree):
        if floor(path) in ("edge", "_keras"):
            # At top level: not inside a function. Classes and conditions still run at import.
            tree = copy.deepcopy(tree)
            for function in ast.walk(tree):
                if isinstance(function, ast.FunctionDef | ast.Lambda):
                    function.body = []
        return LEGACY & {parts[0] for parts in imported(path, tree)}

    assert not guilty(eager)


def is_private(name):
    return re.fullmatch(r"_[a-z]\w*|__internal__", name) is not None


def made_here(tree):
    """Private names that a module's own code gives to functions, classes and its objects."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if ast.unparse(node.value) in ("self", "cls"):
                yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        # Past Keras' tracking.
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "self.__dict__":
            yield getattr(node.slice, "value", "")
        elif isinstance(node, ast.Call) and ast.unparse(node).startswith(PAST_TRACKING):
            yield getattr(node.args[1], "value", "")


@functools.cache
def made_in_the_package():
    return {name for path in MODULES for name in made_here(parse(path)) if is_private(name)}


def touched(node):
    """The private names that a node touches, each with whether it is the module's own object's."""
    if isinstance(node, ast.Attribute):
        yield node.attr, ast.unparse(node.value) in ("self", "cls", "super()")
    elif isinstance(node, ast.keyword):
        yield node.arg, False
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ATTRIBUTE_CALLS:
        yield from ((a.value, False) for a in node.args[1:2] if isinstance(a, ast.Constant))


def private_modules(node):
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def of_frameworks(path, tree):
    """The lines that touch what is private to another module, and to none of ours above it."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    here = {*made_here(tree), *NOBODYS}
    for node in ast.walk(tree):
        for name, own in touched(node):
            if is_private(name or "") and name not in (made_in_the_package() if own else here):
                yield node.lineno, name
        if id(node) not in docs:
            found = [name for name in private_modules(node) if PRIVATE_MODULE.search(name)]
            yield from ((node.lineno, name) for name in found)


def test_what_frameworks_keep_private_is_touched_in_one_place():
    paths = [path for path in MODULES if not identify(path).startswith(PRIVATE_HOMES)]
    assert not guilty(lambda path, tree: list(of_frameworks(path, tree)), paths)


@pytest.mark.parametrize(
    "line",
    [
        "from keras.src.models.functional import Functional",
        "import tensorflow.python.framework.kernels",
        "def load():\n    from tf_keras.src.saving import serialization_lib",
        "from tensorflow_model_optimization.python.core import quantization",
        "from keras import _tf_keras",
        "layer._inbound_nodes",
        "layer._trainable = True",
        "layer._name = 'dense'",
        "self._standardize_inputs(x)",
        "super()._get_own_losses()",
        "getattr(model, '_is_graph_network', False)",
        "setattr(layer, '_call_has_training_arg', True)",
        "vars(twin).update(_outbound_nodes=[])",
        "tf_keras.__internal__.KerasTensor",
        "type(operation).__module__.startswith('keras.src.')",
    ],
)
def test_a_private_part_is_found_however_it_is_touched(line):
    assert list(of_frameworks(PACKAGE / "new.py", ast.parse(line)))


def test_what_depends_on_an_environment_variable_is_written_nowhere():
    def ambiguous(path, tree):
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        written = [node.lineno for node in nodes if ast.unparse(node) in AMBIGUOUS]
        names = [".".join(parts[:2]) for parts in imported(path, tree)]
        return written + [name for name in names if name in AMBIGUOUS]

    assert not guilty(ambiguous, [*MODULES, ROOT / "keras_distill_cli.py"])


def test_the_console_entry_loads_nothing_heavy():
    path = ROOT / "keras_distill_cli.py"
    tops = {parts[0] for parts in imported(path, parse(path))}
    assert not tops & {"keras_distill", "keras", "tensorflow", "numpy", "rich", "typer"}
