"""mkdocs' hook: the pages that are made from the repository, and links out of docs/.

The reference has a page for each public module, read from its `__init__`; notebooks, scripts, the
benchmarks' page and the changelog stay where they are and get a page here. Nothing is imported and
nothing is fetched, so the site builds without TensorFlow and without a network.
"""

import ast
import base64
import json
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parent.parent
FLAT = "keras_distill"
# Public modules in the order of the menu, each with what its page is called.
MODULES = {
    FLAT: "keras_distill",
    "keras_distill.objectives": "objectives",
    "keras_distill.functional": "functional",
    "keras_distill.schedules": "schedules",
    "keras_distill.teachers": "teachers",
    "keras_distill.teachers.cache": "teachers.cache",
    "keras_distill.training.callbacks": "callbacks",
    "keras_distill.transfer": "transfer",
    "keras_distill.edge": "edge",
    "keras_distill.judging": "judging",
    "keras_distill.pipeline": "pipeline",
    "keras_distill.measures": "measures",
    "keras_distill.explaining": "explaining",
    "keras_distill.signals": "signals",
    "keras_distill.data": "data",
}
# Files outside of docs/ with a page of their own: what is written there -> where it lies.
PAGES = {"benchmarks/README.md": "benchmarks.md", "CHANGELOG.md": "changelog.md"}
PAGES["CONTRIBUTING.md"] = "contributing.md"
SHOWN = ("examples/*.py", "benchmarks/*.py", "notebooks/run.py", "keras_distill/*/*/bounds.py")
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)")


def source(module: str) -> Path:
    """A module's file."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def public_names(module: str) -> list[str]:
    """What a module exports: its `__all__`, else what it says `as` itself or defines in public."""
    tree = ast.parse(source(module).read_text(encoding="utf-8"))
    found: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
        if isinstance(node, ast.ImportFrom):
            found += [alias.name for alias in node.names if alias.asname == alias.name]
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            found += [node.name] if not node.name.startswith("_") else []
    return sorted(found, key=str.lower)


def documented(module: str) -> list[str]:
    """The names that have an entry: all public ones that are no modules themselves."""
    return [name for name in public_names(module) if f"{module}.{name}" not in MODULES]


def api_page(module: str) -> str:
    """The page of a module: its docstring, then an entry a name."""
    lines = [f"# {module}", "", f"::: {module}", "    options:", "      members: false"]
    lines += ["      show_root_heading: false", "      show_root_toc_entry: false", ""]
    for name in documented(module):
        lines += [f"::: {module}.{name}", ""]
    return "\n".join(lines)


def _cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def _text(cell: dict) -> str:
    return "".join(cell["source"])


def notebook_page(path: Path) -> str:
    """A notebook as a page: its words, its code, and what it printed and drew when it last ran.

    What is in docs/notebooks counts only while its code is the notebook's.
    """
    cells, ran = _cells(path), ROOT / "docs" / "notebooks" / path.name
    note = "It was not run since it was changed: `python notebooks/run.py` does."
    if ran.exists() and [*map(_text, _cells(ran))] == [*map(_text, cells)]:
        cells = _cells(ran)
        note = "What it prints and draws is one run of `python notebooks/run.py`, of one seed."
    parts = []
    for cell in cells:
        if cell["cell_type"] == "markdown":
            parts.append(_text(cell))
        elif _text(cell).strip():
            parts += [f"```python\n{_text(cell)}\n```", *map(_output, cell.get("outputs", []))]
    note = f"The notebook itself, to run: `notebooks/{path.name}`. {note}"
    return "\n\n".join([*(part for part in parts if part), note])


def _output(output: dict) -> str:
    """What a cell gave, in Markdown."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        png = base64.b64encode(base64.b64decode("".join(data["image/png"]))).decode()
        return f'<img alt="What the cell drew" src="data:image/png;base64,{png}">'
    text = re.sub(r"\x1b\[[0-9;]*m", "", "".join(data.get("text/plain", ""))).strip("\n")
    return f"```text\n{text}\n```" if text else ""


def generated() -> dict[str, str]:
    """Every page that is made here, by its place in the site, with its source's place or ""."""
    pages = {f"api/{page}.md": "" for page in MODULES.values()}
    pages |= {page: written for written, page in PAGES.items()}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        pages[f"notebooks/{path.stem}.md"] = f"notebooks/{path.name}"
    for pattern in SHOWN:
        for path in sorted(ROOT.glob(pattern)):
            written = path.relative_to(ROOT).as_posix()
            pages[f"source/{written}.md"] = written
    return pages


def content(page: str, written: str) -> str:
    """The Markdown of a generated page."""
    if page.startswith("api/"):
        by_page = {name: module for module, name in MODULES.items()}
        return api_page(by_page[page.removeprefix("api/").removesuffix(".md")])
    path = ROOT / written
    if path.suffix == ".ipynb":
        return notebook_page(path)
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        # Code is read, not searched: its words would bury the guides.
        front = "---\nsearch:\n  exclude: true\n---\n"
        return f"{front}# {written}\n\n````python\n{text}````\n"
    return text


def on_files(files: "Files", config) -> "Files":
    """Add what is made here to the files of docs/."""
    from mkdocs.structure.files import File  # the tests read the rest without it

    # What the notebooks gave lies in docs/notebooks: it is shown in pages, not handed out.
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(file)
    for page, written in generated().items():
        files.append(File.generated(config, page, content=content(page, written)))
    return files


def on_page_markdown(markdown: str, page, config, files: "Files") -> str:
    """Let links that lead out of docs/ lead to the pages of what they name."""
    pages = generated()
    here = page.file.src_uri
    written = pages.get(here, "") or f"docs/{here}"
    by_source = {found: made for made, found in pages.items() if found}

    def lead(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(written), match[1]))
        if target in by_source:
            found = by_source[target]
        elif target.startswith("docs/"):
            found = target.removeprefix("docs/")
        else:
            return match[1]
        return posixpath.relpath(found, posixpath.dirname(here) or ".")

    return LINK.sub(lead, markdown)
