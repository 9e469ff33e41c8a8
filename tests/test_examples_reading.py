"""What the examples read: rows of a person in the order of time, and a word where nothing is."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).parent.parent / "examples" / "_reading.py"


@pytest.fixture(scope="module")
def reading():
    spec = importlib.util.spec_from_file_location("_reading", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_last_of_a_persons_ratings_are_the_test(reading, tmp_path):
    films = [
        f"{name}\tTitle\t{year}\tDrama"
        for name, year in zip("abcdefghij", range(1990, 2000), strict=True)
    ]
    _write(tmp_path, "item", "item_id:token\tmovie_title:t\trelease_year:token\tclass:t", films)
    people = ["9\t30\tF\tartist", "4\t20\tM\twriter"]
    _write(tmp_path, "user", "user_id:token\tage:token\tgender:token\toccupation:token", people)
    # Person 4 rates a to j, one after the other; the file has them from the last to the first.
    rated = [f"4\t{name}\t{1 + place % 5}\t{place}" for place, name in enumerate("abcdefghij")]
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    _write(tmp_path, "inter", head, ["9\tc\t5\t7", *reversed(rated)])

    found = reading.movielens(tmp_path)
    by_time = np.array([1, 2, 3, 4, 5, 1, 2, 3, 4, 5])
    assert found["ratings"].shape == (3, 2, 10)
    for part, places in enumerate((range(7), range(7, 8), range(8, 10))):
        expected = [stars if place in places else 0 for place, stars in enumerate(by_time)]
        np.testing.assert_array_equal(found["ratings"][part, 1], expected)
    np.testing.assert_array_equal(found["ratings"][0, 0], np.eye(10)[2] * 5)
    np.testing.assert_array_equal(found["person"], [[0, 1, 1, 0], [-1, 0, 0, 1]])


def test_a_folder_that_is_missing_is_named_with_what_fetches_it(reading, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_DISTILL_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match=r"examples/recommender\.py has the commands"):
        reading.data_folder("ml-100k", "recommender")
    (tmp_path / "ml-100k").mkdir()
    assert reading.data_folder("ml-100k", "recommender") == tmp_path / "ml-100k"


def _write(folder, kind, head, rows):
    (folder / f"ml-100k.{kind}").write_text("\n".join([head, *rows, ""]), encoding="utf-8")
