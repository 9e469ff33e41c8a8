"""What Griffe reads of a docstring: doctests as blocks of code, several names on a line as one.

Our doctests follow the text without a heading of their own, and Markdown would run them into it.
"""

import re

import griffe

SEVERAL = re.compile(r"^ +\w+(?:, \w+)+:", re.M)
EXAMPLE = re.compile(r"^( *)>>> .*(?:\n\1(?! *$).+)*", re.M)


def fenced(text: str) -> str:
    """A docstring whose doctests are blocks of code."""

    def block(match: re.Match[str]) -> str:
        indent = match[1]
        return f"\n{indent}```python\n{match[0]}\n{indent}```"

    # Behind a space Griffe expects a type: `bytes, bytes_at_8: ...` would be bytes of that type.
    text = SEVERAL.sub(lambda match: match[0].replace(", ", ",\u00a0"), text)
    return EXAMPLE.sub(block, text)


class Doctests(griffe.Extension):
    """Applies `fenced` to every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Once an object, when it has been read."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
