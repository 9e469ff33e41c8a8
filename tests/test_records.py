"""Records: plain text everywhere, tables in a notebook, JSON that every reader takes."""

import dataclasses
import json
from dataclasses import dataclass, field

import keras
import numpy as np
import pytest
from IPython.lib.pretty import pretty

import keras_distill as kd
from keras_distill._records import NOT_IN_JSON, Record, Table, pairs
from keras_distill.edge.debugging.debug import LayerError
from keras_distill.edge.search.sensitivity import LayerSensitivity
from keras_distill.explaining.calibration import Calibration
from keras_distill.explaining.record import ModelAnswers
from keras_distill.judging.record import Figure, Gap, Judgement, SplitFigures
from keras_distill.litert.runner import LatencyReport, TensorInfo
from keras_distill.objectives.vocabularies import VocabularyCoverage
from keras_distill.pipeline.reports.record import Row, RunReport
from keras_distill.pipeline.tuning.record import TunePoint, TuneReport
from keras_distill.teachers.cache import CacheInfo, CacheReport
from keras_distill.training.chain_report import ChainReport, Generation
from keras_distill.transfer.report import TransferReport, TransferRow


def explanation():
    counts = Calibration(np.array([0, 4]), np.array([0.0, 0.9]), np.array([0.0, 1.0]))
    answers = [ModelAnswers(n, 1.0, 0.9, 0.1, np.array([4]), counts) for n in ("big", "small")]
    return kd.explaining.Explanation(
        4, 4, ("a<b", "c"), np.diag([2, 2]), 0.0, *answers, (), None, "none was asked for", ()
    )


def numbers():
    one = np.array([0.5])
    errors = [kd.explaining.NumberErrors(n, one, one, one, one) for n in ("big", "small")]
    lost = kd.explaining.LostNumber(3, 0, 0.5, 1.0, 1.5, 2.0)
    return kd.explaining.NumbersExplanation(
        4, np.array([4]), ("a<b",), one, one, *errors, None, "none", (lost,), np.zeros((3, 4, 1))
    )


def judgement():
    told = [1.0, 0.5, 1.0, 0.0, 0.0, float("nan"), "not told apart", 1.0, 1, True]
    figures = tuple(Figure("a<b", c, "accuracy", *told) for c in ("clean", "noise 3"))
    names = ("a<b",), "a<b", "classes", 4, True, 0.95, ("clean", "noise 3"), ("accuracy",)
    parts = SplitFigures("a<b", "accuracy", "2 folds", {"fold 1": 1.0, "fold 2": float("nan")})
    gap = Gap("a<b", "accuracy", 1.0, 1.0, 0.0, 0.0, 0.0)
    return Judgement(
        *names, figures, {"a<b": 1.0}, {"a<b": 1.0}, (parts,), (gap,), {"c": "crashed"}, "0f"
    )


def search():
    figures = {"quality_validation": 0.5, "bytes": 9, "latency_p50_ms": 0.1}
    figures |= {"latency_low_ms": 0.1, "latency_high_ms": float("nan"), "seconds": 1.0}
    values = {"models.m.build": "a<b", "stages.s.objectives": [{"objective": "DKD"}]}
    points = tuple(
        TunePoint(
            i, values, "accuracy", host=f"h{i}", on_front=not i, quality_test=i or None, **figures
        )
        for i in range(2)
    )
    names = {"models.m.build": "build", "stages.s.objectives": "objectives"}
    return TuneReport("r", "s", "d", 0, names, points, 1, 0, 10, None, "c")


def run_report():
    row = Row("a<b", "student", "export", "f", True, 9, 5, 15, 0.5, 0.25, 0.75)
    of = {"metric": "accuracy", "share": True, "better": 1, "task": "classes", "confidence": 0.95}
    return RunReport(
        "a<b", "", "run", 0, {}, {"name": "d"}, "", **of, test_rows=4, teacher=None, twin=None,
        rows=(row,),
    )  # fmt: skip


def records():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="dense")], name="m")
    tensor = TensorInfo("x", (1, 4), "float32", 0.0, 0)
    costs = LayerSensitivity("dense", "Dense", 12, 12, None, 1e-3, 1e-5)
    sensitivity = kd.edge.Sensitivity("m", (costs,), 0.0, 4)
    generation = Generation("m", "t", 15, 1.0, {"loss": [np.float32(0.5)]}, "w.h5", model)
    return {
        "export": kd.edge.TFLiteExport(
            "f", "int8", 9, 5, 0.0, {"ADD": 1}, {}, {}, (tensor,), (tensor,), ("a<b",)
        ),
        "verification": kd.edge.VerificationReport(
            None, None, None, 1.0, None, float("nan"), 0.0, {}, 9, 0.1, True
        ),
        "debug": kd.edge.DebugReport(
            "f", 1, (LayerError("a", "ADD", "int8", (1,), float("inf"), 0.0, 1.0),), 0
        ),
        "inspection": kd.edge.inspect(model),
        "judgement": judgement(),
        "sensitivity": sensitivity,
        "bits": kd.edge.BitSearch({"dense": 4}, 9, 18, 0.01, 0.0, 0.5, sensitivity),
        "sparsity": kd.edge.sparsity_report(model),
        "profile": kd.transfer.profile(model),
        "transfer": TransferReport("what was done", (TransferRow("dense", "copied", "d", "", 15),)),
        "latency": LatencyReport(0.5, 0.75, 2_000_000, 50, 1, "a phone"),
        "coverage": VocabularyCoverage(3, 4, 2, ("a",), ("b", "c")),
        "cache": CacheInfo(
            "d", 4, 1, False, {"output": (3,)}, None, "float16", {}, "float16", False, 1, 1, 99,
            24.75, None, {}, {}, {"keras": "3"},
        ),
        "cache report": CacheReport("d", 1, ("s",), (), {}),
        "chain": ChainReport((generation,)),
        "explanation": explanation(),
        "numbers": numbers(),
        "search": search(),
        "run": run_report(),
    }  # fmt: skip


RECORDS = records()


def subclasses(kind):
    return {kind} | {found for one in kind.__subclasses__() for found in subclasses(one)}


def test_every_record_of_the_package_is_tried_here():
    parts = {ModelAnswers, kd.edge.sparsity_report(RECORDS["chain"].student).rows[0].__class__}
    ours = {kind for kind in subclasses(Record) if kind.__module__.startswith("keras_distill.")}
    assert ours - {Record} - parts == {type(record) for record in RECORDS.values()}


@pytest.mark.parametrize("name", RECORDS)
def test_its_text_is_plain_wherever_it_is_printed(name, monkeypatch, capsys):
    plain = str(RECORDS[name])
    # What rich takes for a terminal, and for a notebook.
    for variable in ("FORCE_COLOR", "TTY_COMPATIBLE", "JUPYTER_COLUMNS"):
        monkeypatch.setenv(variable, "40")
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    print(RECORDS[name])
    assert capsys.readouterr().out == f"{plain}\n"
    assert plain.isprintable() or set(filter(lambda c: not c.isprintable(), plain)) == {"\n"}
    assert all(line == line.rstrip() for line in plain.splitlines())


@pytest.mark.parametrize("name", RECORDS)
def test_a_notebook_shows_it_as_html(name):
    html = RECORDS[name]._repr_html_()
    assert "<table>" in html or name == "coverage"
    assert pretty(RECORDS[name]) == str(RECORDS[name])
    assert "a<b" not in html
    for cells in (part.rows for part in RECORDS[name].parts() if isinstance(part, Table)):
        assert html.count("<td") >= sum(map(len, cells))


@pytest.mark.parametrize("name", RECORDS)
def test_its_json_is_strict(name):
    def refuse(constant):
        raise AssertionError(constant)

    found = json.loads(RECORDS[name].to_json(), parse_constant=refuse)
    kept = [f for f in dataclasses.fields(RECORDS[name]) if f.metadata != NOT_IN_JSON]
    fields = [field.name for field in kept]
    assert list(found) == [*fields, *RECORDS[name].derived]


def test_json_leaves_out_and_derives_what_the_record_says():
    @dataclass(frozen=True)
    class Found(Record):
        values: np.ndarray
        where: dict
        model: object = field(default=None, metadata=NOT_IN_JSON)

        derived = ("total",)

        @property
        def total(self):
            return self.values.sum()

    found = Found(np.array([0.5, np.inf]), {"a": (np.int64(1), float("nan"))}, object())
    assert json.loads(found.to_json()) == {
        "values": [0.5, None],
        "where": {"a": [1, None]},
        "total": None,
    }
    # What is no dataclass' own is shown field by field.
    assert str(found).splitlines()[0].split("  ")[0] == "values"


def test_a_table_as_text_and_as_html():
    table = Table(("layer", "bytes"), (("[bold]a", "1,024"), ("b & c", "8")), ("bytes",), "t")
    assert table.as_text().splitlines() == [
        "t",
        " layer     bytes",
        "-----------------",
        " [bold]a   1,024",
        " b & c         8",
    ]
    assert table.as_html() == (
        '<table><caption>t</caption><thead><tr><th style="text-align: left">layer</th>'
        '<th style="text-align: right">bytes</th></tr></thead><tbody>'
        '<tr><td style="text-align: left">[bold]a</td><td style="text-align: right">1,024</td></tr>'
        '<tr><td style="text-align: left">b &amp; c</td><td style="text-align: right">8</td></tr>'
        "</tbody></table>"
    )
    assert pairs({"a": 1, "long": "x"}).as_text() == "a     1\nlong  x"


def test_what_is_too_long_goes_on_below_and_is_whole():
    text = Table(("why",), (("w" * 50,),), width=20).as_text()
    assert max(map(len, text.splitlines())) <= 20
    assert text.count("w") == 51
