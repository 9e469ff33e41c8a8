"""The package's imports, read from its source: they point only up `ORDER`."""

import ast
import copy
import functools
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "keras_distill"
ORDER = [
    "_extras",
    "_records",
    "_keras",
    "_json",
    "_files",
    "progress",
    "schedules",
    "functional",
    "labels",
    "data",
    "graph",
    "litert",
    "signals",
    "objectives",
    "teachers",
    "training",
    "transfer",
    "edge",
    "explaining",
    "pipeline",
    "cli",
]
MODULES = sorted(PACKAGE.rglob("*.py"))
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
        return floor(path) not in ("pipeline", "cli") and {"pipeline"} & ours(path, tree)

    assert not guilty(pipeline)


def test_keras_2_comes_in_lazily_and_only_under_edge():
    def eager(path, tree):
        if floor(path) == "edge":
            # At top level: not inside a function. Classes and conditions still run at import.
            tree = copy.deepcopy(tree)
            for function in ast.walk(tree):
                if isinstance(function, ast.FunctionDef | ast.Lambda):
                    function.body = []
        return LEGACY & {parts[0] for parts in imported(path, tree)}

    assert not guilty(eager)


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
