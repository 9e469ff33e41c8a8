"""JSON that anybody may have written is read within limits."""

import json
import os
import threading

import pytest

from keras_distill import _json


def nested(depth, opening="[", closing="]"):
    return opening * depth + closing * depth


@pytest.mark.parametrize(
    "text",
    ["", "{", "nan", "{1: 2}", b"\xff\xfe", b'"\xe9"', "1" * 10_000, nested(101), nested(900)],
)
def test_what_is_no_plain_json_is_a_value_error(text):
    with pytest.raises(ValueError):
        _json.loads(text)


@pytest.mark.parametrize("text", [nested(100_000), "[" * 100_000, nested(500, '{"a":[', "]}")])
def test_a_deep_nest_is_a_value_error(text):
    with pytest.raises(ValueError, match="at most 100 deep"):
        _json.loads(text)


@pytest.mark.parametrize("value", [None, 1.5, "ü", [], {}, [{"a": [1, {"b": {}}]}], nested(100)])
def test_plain_json_comes_back(value, tmp_path):
    file = tmp_path / "values.json"
    file.write_text(json.dumps(value), encoding="utf-8")
    assert _json.read(file) == value
    assert _json.loads(nested(100)) == json.loads(nested(100))


def test_a_long_file_is_not_read_whole(tmp_path):
    file = tmp_path / "long.json"
    with open(file, "wb") as opened:
        opened.truncate(1 << 40)
    with pytest.raises(ValueError, match="at most 1,000 bytes"):
        _json.read(file, max_bytes=1000)


def test_what_is_no_ordinary_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        _json.read(tmp_path / "none.json")
    with pytest.raises(ValueError, match="not an ordinary file"):
        _json.read(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with a name are POSIX'")
def test_a_pipe_is_refused_at_once(tmp_path):
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    refusals = []

    def refuse():
        try:
            _json.read(pipe)
        except ValueError as error:
            refusals.append(error)

    reader = threading.Thread(target=refuse, daemon=True)
    reader.start()
    reader.join(timeout=20)
    assert refusals
