"""The package's source: whatever makes objects of what a file says has a closed list."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = [*sorted((ROOT / "keras_distill").rglob("*.py")), ROOT / "keras_distill_cli.py"]
# Keras 3 in safe mode makes its own and registered classes, and says so of all else.
BY_KERAS = {"deserialize_keras_object", "load_model"}
# The command line's, which ends in Keras'.
OURS = {"inputs.load_model", "load_model"}
# These run or import what they are told, or make any class.
NEVER = {
    *("eval", "exec", "compile_command", "__import__", "literal_eval", "func_load"),
    *("model_from_json", "model_from_config", "model_from_yaml", "load_module"),
    *("unsafe_load", "full_load", "load_all", "enable_unsafe_deserialization"),
}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"}
# The places that go beyond, each with what it goes by.
EXCEPTIONS = {
    # Behind the closed list, or a layer of this process.
    ("keras_distill/edge/bridge/legacy_layer.py", "tf_keras.saving.deserialize_keras_object"),
    ("keras_distill/edge/loading/older.py", "legacy.tf_keras().models.model_from_config"),
    # Keras' safe mode, but for a layer of this process.
    ("keras_distill/edge/bridge/carried.py", "keras.saving.deserialize_keras_object"),
    # The config is that of a layer of this process.
    ("keras_distill/graph/remaking.py", "keras.saving.deserialize_keras_object"),
    # The user names the module on the command line.
    ("keras_distill/pipeline/modules.py", "importlib.import_module"),
    # pycocotools' table of results, a dict.
    ("keras_distill/measures/detection.py", "judge.eval"),
    # The modules are named in the source.
    ("keras_distill/edge/__init__.py", "importlib.import_module"),
    ("keras_distill/edge/legacy.py", "importlib.import_module"),
    # Named by the parent, which starts the process.
    ("keras_distill/litert/serve.py", "importlib.import_module"),
    ("keras_distill/transfer/__init__.py", "importlib.import_module"),
}


def faults(source):
    """What in a source makes objects without a closed list, as (line, name)."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module = getattr(node, "module", None) or ""
            found = {name.partition(".")[0] for name in [module, *(a.name for a in node.names)]}
            yield from ((node.lineno, name) for name in found & FORBIDDEN_MODULES)
        if isinstance(node, ast.Call):
            yield from called(node)
        elif isinstance(node, (ast.Attribute, ast.Name)) and last(node) in NEVER:
            yield node.lineno, ast.unparse(node)


def called(node):
    name, options = ast.unparse(node.func), {word.arg: word.value for word in node.keywords}
    if last(node.func) == "import_module":
        yield node.lineno, name
    keras_own = name.startswith("keras.") or name in OURS
    if last(node.func) in BY_KERAS and (not keras_own or "safe_mode" in options):
        yield node.lineno, name
    # Their defaults take no pickles and no objects; numpy's is said where it is called.
    if name in ("np.load", "numpy.load") and not is_false(options.get("allow_pickle")):
        yield node.lineno, name
    if name in ("yaml.load", "torch.load"):
        yield node.lineno, name


def last(node):
    return getattr(node, "attr", getattr(node, "id", None))


def is_false(node):
    return isinstance(node, ast.Constant) and node.value is False


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_file_says_becomes_an_object_only_by_a_closed_list(path):
    file = path.relative_to(ROOT).as_posix()
    found = [
        fault for fault in faults(path.read_text("utf-8")) if (file, fault[1]) not in EXCEPTIONS
    ]
    assert not found, f"{file}: give it a closed list, or say here what it goes by"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from marshal import loads",
        "eval(text)",
        "keras.saving.deserialize_keras_object(config, safe_mode=False)",
        "tf_keras.models.load_model(path)",
        "keras.saving.load_model(path, safe_mode=safe)",
        "tf_keras.saving.deserialize_keras_object(config)",
        "importlib.import_module(name)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "keras.models.model_from_json(text)",
        "read = keras.config.enable_unsafe_deserialization",
    ],
)
def test_a_new_one_is_noticed(source):
    assert list(faults(source))


def test_every_exception_is_there():
    for file, name in EXCEPTIONS:
        assert any(found == name for _, found in faults((ROOT / file).read_text("utf-8"))), file
