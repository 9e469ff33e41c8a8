"""Where the long story behind an error is told: the one home of links from messages to docs/."""

__all__ = ["PAGES", "see"]

# tests/test_site.py holds each to a page and a heading.
PAGES = {
    "answers": "objectives.md#dense-numbers-several-labels-maps",
    "cache": "cache.md#stopped-killed-damaged",
    "calibration": "guides/precision.md#int8-in-three-steps-of-effort",
    "exact": "edge.md#values-that-stand-for-something-exact",
    "layers": "objectives.md#on-layers",
    "lookups": "guides/errors.md#text-and-tables-that-are-looked-up",
    "older files": "edge.md#models-from-older-files",
    "subclassed": "guides/errors.md#a-subclassed-model",
    "tf_keras": "install.md#tf_keras-and-tfmot",
    "unlabelled": "guides/errors.md#rows-without-a-label",
    "worse": "guides/precision.md#when-the-file-got-worse",
}


def see(topic: str) -> str:
    """The end of a message: where to read on.

    Args:
      topic: a key of `PAGES`.

    >>> see("layers")
    ' See docs/objectives.md#on-layers'
    """
    return f" See docs/{PAGES[topic]}"
