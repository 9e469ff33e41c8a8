"""The recipes that come with the package."""

from pathlib import Path

__all__ = ["SHIPPED", "shipped_text"]

SHIPPED = tuple(sorted(file.stem for file in Path(__file__).parent.glob("*.yaml")))


def shipped_text(name: str) -> str:
    """The YAML of a shipped recipe."""
    return Path(__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8")
