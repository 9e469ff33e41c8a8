"""Checks as a JUnit XML file, which build servers show test by test."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from keras_distill import _files
from keras_distill.edge.records import Check

# XML 1.0 has no way to write these, and a path may hold them.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(
    path: Path,
    subject: str | os.PathLike[str],
    checks: Sequence[Check],
    seconds: float,
    error: str | None = None,
    output: str | None = None,
    command: str = "verify",
) -> None:
    """Writes one testcase a check, put at `path` whole or not at all.

    Args:
      path: the file.
      subject: what was checked; it names the cases' class.
      checks: in order.
      seconds: how long all of them took.
      error: why nothing could be checked: one more case, in error.
      output: text to go with them.
      command: the one of ours that checked.
    """
    failures = sum(not check.passed for check in checks)
    counts = {
        "tests": str(len(checks) + (error is not None)),
        "failures": str(failures),
        "errors": str(int(error is not None)),
        "time": f"{seconds:.3f}",
    }
    named = {"name": f"keras-distill {command}", **counts}
    suites = ElementTree.Element("testsuites", named)
    suite = ElementTree.SubElement(suites, "testsuite", named | {"skipped": "0"})
    for check in checks:
        case = _case(suite, subject, check.name, seconds / len(checks))
        if not check.passed:
            words = _plain(check.words)
            failure = ElementTree.SubElement(case, "failure", message=words, type="tolerance")
            failure.text = words
    if error is not None:
        case = _case(suite, subject, command, seconds)
        words = _plain(error)
        ElementTree.SubElement(case, "error", message=words, type="usage").text = words
    if output is not None:
        ElementTree.SubElement(suite, "system-out").text = _plain(output)
    ElementTree.indent(suites)
    _files.write(path, ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True))


def _case(
    suite: ElementTree.Element, subject: str | os.PathLike[str], name: str, seconds: float
) -> ElementTree.Element:
    return ElementTree.SubElement(
        suite,
        "testcase",
        classname=_plain(os.fspath(subject)),
        name=name,
        time=f"{seconds:.3f}",
    )


def _plain(text: str) -> str:
    return _FORBIDDEN.sub("?", text)
