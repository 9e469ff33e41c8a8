"""What the examples read from the folder that the environment's `KERAS_DISTILL_DATA` names."""

import csv
import lzma
import os
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np


def data_folder(name: str, example: str) -> Path:
    """The folder `name` in that of `KERAS_DISTILL_DATA`; where there is none, how to get it."""
    found = Path(os.environ.get("KERAS_DISTILL_DATA") or ".").expanduser() / name
    if not found.is_dir():
        raise SystemExit(
            f"Expected data in {found}. The head of examples/{example}.py has the commands that "
            f"fetch them; the environment's KERAS_DISTILL_DATA names the folder around {name!r}. "
            f"--smoke runs without."
        )
    return found


def movielens(folder: Path) -> dict[str, np.ndarray]:
    """MovieLens-100K as recbole keeps it.

    Returns:
      `ratings`, `(3, people, films)`: 1 to 5, 0 for none; of each person the first seven tenths by
      time, the next tenth, and the rest. `person`: age, gender, trade. `film`: year, genres.
    """
    people, films, found = (_tsv(folder / f"ml-100k.{kind}") for kind in ("user", "item", "inter"))
    person_at = {row["user_id"]: place for place, row in enumerate(people)}
    film_at = {row["item_id"]: place for place, row in enumerate(films)}
    found.sort(key=lambda row: (person_at[row["user_id"]], float(row["timestamp"])))
    who = np.array([person_at[row["user_id"]] for row in found])
    when = (np.arange(len(who)) - np.searchsorted(who, who)) / np.bincount(who)[who]
    part = (when >= 0.7).astype(int) + (when >= 0.8)
    ratings = np.zeros((3, len(people), len(films)), "float32")
    ratings[part, who, [film_at[row["item_id"]] for row in found]] = [
        float(row["rating"]) for row in found
    ]
    trades = sorted({row["occupation"] for row in people})
    genres = sorted({word for row in films for word in row["class"].split()})
    person = [
        [int(row["age"]) / 10 - 3, row["gender"] == "F", *(row["occupation"] == t for t in trades)]
        for row in people
    ]
    years = [int(row["release_year"]) if row["release_year"].isdecimal() else 1995 for row in films]
    film = [
        [year / 10 - 199, *(genre in row["class"].split() for genre in genres)]
        for year, row in zip(years, films, strict=True)
    ]
    return {"ratings": ratings, "person": np.array(person, "f"), "film": np.array(film, "f")}


def _tsv(path: Path) -> list[dict[str, str]]:
    """Rows by column; recbole writes `name:type` above each."""
    with open(path, encoding="utf-8", newline="") as file:
        found = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [{key.split(":")[0]: value for key, value in row.items()} for row in found]


def chicago(folder: Path) -> dict[str, np.ndarray]:
    """Ridership of Chicago's railway by day, out of the R package modeldata.

    Returns:
      `own`, thousands of people at Clark/Lake; `others`, at nineteen stations more;
      `weekday`, Monday 0; `holiday`; `year`.
    """
    import pandas
    from pandas.tseries.holiday import USFederalHolidayCalendar

    found = r_table(folder, "modeldata", "Chicago")
    stations = found.loc[:, "Austin":"California"].drop(columns="Clark_Lake").to_numpy()
    days = pandas.to_datetime(found.date, unit="D")
    # The column of a station stands two weeks late beside the day.
    late = 14
    return {
        "own": found.ridership.to_numpy()[:-late],
        "others": stations[late:],
        "weekday": days.dt.weekday.to_numpy()[:-late],
        "holiday": days.isin(USFederalHolidayCalendar().holidays()).to_numpy()[:-late],
        "year": days.dt.year.to_numpy()[:-late],
    }


def r_table(folder: Path, package: str, name: str) -> Any:
    """A data frame out of an R package that was unpacked into `folder`, as a pandas DataFrame.

    A package keeps its data as one `.rda` a table, or all in an index, `Rdata.rdx`, and a file of
    compressed parts: four bytes with the length, a letter where it isn't zlib, and the stream.
    """
    try:
        import rdata
    except ModuleNotFoundError as error:
        raise SystemExit("To read R's data: pip install rdata") from error
    data = folder / "usr" / "lib" / "R" / "site-library" / package / "data"
    with warnings.catch_warnings():
        # It guesses ASCII, and takes a tibble for the data frame that it is.
        warnings.simplefilter("ignore", UserWarning)
        if (data / f"{name}.rda").exists():
            return rdata.read_rda(data / f"{name}.rda")[name]
        start, size = map(int, rdata.read_rds(data / "Rdata.rdx")["variables"][name])
        part = (data / "Rdata.rdb").read_bytes()[start : start + size]
        if part[4:5] == b"Z":
            plain = lzma.decompress(part[5:], lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2}])
        else:
            plain = zlib.decompress(part[4:])
        return rdata.conversion.convert(rdata.parser.parse_data(plain))


def series_file(path: Path, frames: int) -> dict[str, np.ndarray]:
    """A .ts file of classes from 1 on: a series a line, its channels between colons.

    Returns:
      `x`, `(series, frames, channels)` float32, zeros behind each series' end, its `lengths`, and
      `y` from 0 on.
    """
    lines = path.read_text(encoding="utf-8").partition("@data\n")[2].split()
    read = [[part.split(",") for part in line.split(":")] for line in lines]
    x = np.zeros((len(read), frames, len(read[0]) - 1), "float32")
    for row, (*channels, _) in enumerate(read):
        x[row, : len(channels[0])] = np.array(channels, "float32").T
    lengths = np.array([len(channels[0]) for channels in read])
    return {"x": x, "lengths": lengths, "y": np.array([one[-1][0] for one in read], "int32") - 1}
