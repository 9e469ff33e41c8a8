"""What each kind of stage does: reads the bench's models, writes into its folder, says a line."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_distill import _files, edge, transfer
from keras_distill.pipeline.judged import CONDITIONS
from keras_distill.pipeline.recipes.named import CALLBACKS, Callback, build_number
from keras_distill.pipeline.recipes.stages import Learning, Training
from keras_distill.pipeline.runs.importing import imported
from keras_distill.pipeline.runs.saving import save_model
from keras_distill.pipeline.runs.training import Lasting, compile_for, fit, steps_of
from keras_distill.pipeline.runs.workshop import MODEL, Bench, tflite_name
from keras_distill.teachers.cache import TeacherCache
from keras_distill.training.distiller import Distiller

__all__ = ["FAILED", "STAGES"]

# How the outcome of a stage begins that ended, and whose answer is no.
FAILED = "NOT VERIFIED"
HISTORY = "history.json"


def train(bench: Bench, stage: Any) -> str:
    """On labels alone."""
    return _trained(bench, stage, bench.model(stage.model))


def distil(bench: Bench, stage: Any) -> str:
    """Under a teacher."""
    return _trained(bench, stage, bench.model(stage.model))


def prune(bench: Bench, stage: Any) -> str:
    """To zeros, under a teacher or on labels; they are reached at half of the training."""
    updates = stage.epochs * steps_of(stage, bench.examples)
    options: dict[str, Any] = {"pattern": stage.pattern, "skip": stage.skip}
    if stage.pattern == "unstructured":
        options |= {"end_step": max(1, updates // 2)}
    model = edge.prune(bench.model(stage.model), stage.sparsity, **options)
    words = _trained(bench, stage, model, finished=edge.strip)
    return f"{words}; {_sparsity(edge.strip(model))}"


def cluster(bench: Bench, stage: Any) -> str:
    """To few values."""
    model = edge.cluster(bench.model(stage.model), stage.clusters, skip=stage.skip)
    return _trained(bench, stage, model, finished=edge.strip)


def quantize(bench: Bench, stage: Any) -> str:
    """To eight or four bits, ranges from data, then training."""
    examples = bench.examples
    model = edge.quantize_aware(
        bench.model(stage.model),
        calibration_data=examples.train.x[: stage.rows],
        weight_bits=stage.weight_bits,
        freeze_batch_norm_after=stage.freeze_batch_norm_after,
        skip=stage.skip,
    )
    if stage.epochs:
        return _trained(bench, stage, model)
    save_model(model, bench.into / MODEL)
    return f"ranges from {min(stage.rows, len(examples.train))} examples, no training"


def calibrate(bench: Bench, stage: Any) -> str:
    """The ranges anew."""
    model = bench.model(stage.model)
    rows = bench.examples.train.x[: stage.rows]
    save_model(edge.calibrate(model, rows, stage.method), bench.into / MODEL)
    return f"ranges from {len(rows)} examples, {stage.method}"


def reconstruct(bench: Bench, stage: Any) -> str:
    """The rounding learned."""
    model = edge.reconstruct(
        bench.model(stage.model),
        None if stage.teacher is None else bench.model(stage.teacher),
        bench.examples.train.x,
        examples=min(stage.examples, len(bench.examples.train)),
        iterations=stage.iterations,
        seed=bench.shop.seed(stage.title),
        folder=bench.kept / "blocks",
        verbose=False,
    )
    save_model(model, bench.into / MODEL)
    return f"rounding learned from {stage.examples} examples, {stage.iterations} updates a block"


def carry_over(bench: Bench, stage: Any) -> str:
    """Weights of another line."""
    student = bench.model(stage.model)
    options = {"seed": bench.shop.seed(stage.title)} if stage.how == "copy_random" else {}
    copy = getattr(transfer, stage.how)
    model, report = copy(bench.model(stage.source), student, mapping=stage.mapping, **options)
    save_model(model, bench.into / MODEL)
    return f"{report.parameters:,} of {model.count_params():,} parameters from {stage.source}"


def shrink(bench: Bench, stage: Any) -> str:
    """Narrower."""
    teacher = bench.model(stage.source)
    model, _ = transfer.shrink(teacher, stage.width, criterion=stage.criterion)
    save_model(model, bench.into / MODEL)
    return f"{model.count_params():,} of {teacher.count_params():,} parameters"


def submodel(bench: Bench, stage: Any) -> str:
    """Less deep."""
    teacher = bench.model(stage.source)
    keep = stage.keep if isinstance(stage.keep, int) else list(stage.keep)
    model, _ = transfer.submodel(teacher, keep, seed=bench.shop.seed(stage.title))
    save_model(model, bench.into / MODEL)
    return f"{model.count_params():,} of {teacher.count_params():,} parameters"


def cache(bench: Bench, stage: Any) -> str:
    """A teacher's answers, kept."""
    folder = bench.kept / "cache"
    TeacherCache.build(
        bench.model(stage.model),
        (bench.examples.train.x, bench.examples.known),
        folder,
        dtype=stage.dtype,
        top_k=stage.top_k,
        verbose=False,
    )
    folder.rename(bench.into / "cache")
    return f"{len(bench.examples.train):,} answers of {stage.model}"


def export(bench: Bench, stage: Any) -> str:
    """A file."""
    model = bench.model(stage.model)
    options: dict[str, Any] = {}
    if stage.precision in ("int8", "int16x8") and not _is_quantized(bench, stage):
        options["representative_data"] = bench.examples.train.x[: stage.rows]
    made = edge.export_tflite(
        model,
        bench.into / tflite_name(stage),
        precision=stage.precision,
        labels=bench.examples.class_names,
        **options,
    )
    return f"{made.bytes:,} bytes"


def verify(bench: Bench, stage: Any) -> str:
    """The file against its model."""
    line, rows = stage.model, stage.rows
    file = bench.file(stage.file or bench.step.files[line])
    quantized = bench.step.models[line] != bench.step.floats[line]
    options = {
        key: value
        for key in ("min_agreement", "max_bytes", "max_latency_ms")
        if (value := getattr(stage, key)) is not None
    }
    test = bench.examples.test.first(rows)
    try:
        report = edge.verify(
            file,
            reference=bench.float_model(line),
            data=(test.x, test.y),
            quantized=bench.model(line) if quantized else None,
            max_drop=stage.max_drop,
            **options,
        )
        words = "verified"
    except edge.VerificationError as error:
        report, words = error.report, f"{FAILED}: {' '.join(str(error).split())}"
    _files.write(bench.into / "verification.json", (report.to_json() + "\n").encode())
    return words


def judge(bench: Bench, stage: Any) -> str:
    """Everything that is there, side by side."""
    from keras_distill.judging import judge as judged

    candidates: dict[str, Any] = {line: bench.model(line) for line in bench.step.models}
    candidates |= {title: bench.file(title) for title in bench.step.made}
    test = bench.examples.test.first(stage.rows)
    conditions = CONDITIONS[stage.conditions]() if stage.conditions else ()
    record = judged(
        candidates,
        (test.x, test.y),
        metrics=list(stage.metrics) or None,
        conditions=conditions,
        seed=bench.shop.recipe.seed,
        verbose=False,
    )
    _files.write(bench.into / "judgement.json", (record.to_json() + "\n").encode())
    return f"{len(candidates)} models on {len(test):,} examples"


def explain(bench: Bench, stage: Any) -> str:
    """What was learned of the teacher."""
    from keras_distill.explaining import explain as explained

    test = bench.examples.test.first(stage.rows)
    found = explained(
        bench.model(stage.model),
        bench.model(stage.teacher),
        (test.x, test.y),
        class_names=bench.examples.class_names,
        verbose=False,
    )
    _files.write(bench.into / "explanation.json", (found.to_json() + "\n").encode())
    return f"{stage.model} against {stage.teacher} on {len(test):,} examples"


STAGES: dict[str, Callable[[Bench, Any], str]] = {
    "train": train,
    "distil": distil,
    "prune": prune,
    "cluster": cluster,
    "quantize": quantize,
    "calibrate": calibrate,
    "reconstruct": reconstruct,
    "transfer": carry_over,
    "shrink": shrink,
    "submodel": submodel,
    "cache": cache,
    "export": export,
    "verify": verify,
    "judge": judge,
    "explain": explain,
}


def _trained(
    bench: Bench,
    stage: Training,
    model: keras.Model,
    finished: Callable[[keras.Model], keras.Model] = lambda model: model,
) -> str:
    """Train a model as the stage says, and write it with its history."""
    keras.utils.set_random_seed(bench.shop.seed(stage.title))
    trained: Any = model
    cached: TeacherCache | None = None
    if isinstance(stage, Learning) and stage.teachers:
        if stage.cache is not None:
            rows = (bench.examples.train.x, bench.examples.known)
            cached = TeacherCache.open(bench.shop.folder / stage.cache / "cache", rows)
        trained = Distiller(
            model,
            bench.teacher(stage.teachers) if cached is None else cached,
            [one.built() for one in stage.objectives],
            label_weight=build_number(stage.label_weight),
        )
    compile_for(model, stage, bench.examples, trained)
    history = fit(
        trained,
        stage,
        bench.examples,
        bench.shop.recipe.seed,
        _lasting(bench, stage),
        None if cached is None else cached.dataset(stage.batch_size, seed=bench.shop.recipe.seed),
    )
    save_model(finished(model), bench.into / MODEL)
    (bench.into / HISTORY).write_text(json.dumps(history) + "\n", encoding="utf-8")
    return _came_to(history)


def _came_to(history: Mapping[str, list[float]]) -> str:
    """What a training came to, in words."""
    epochs = len(next(iter(history.values()), []))
    ended = f"after {epochs} epoch{'s' if epochs > 1 else ''}"
    if accuracy := history.get("val_accuracy"):
        return f"validation accuracy {accuracy[-1]:.1%} {ended}"
    if error := history.get("val_mae"):
        return f"validation mean absolute error {error[-1]:.4g} {ended}"
    return f"loss {history['loss'][-1]:.4g} {ended}"


def _lasting(bench: Bench, stage: Training) -> Lasting:
    logs = bench.shop.folder / "logs"
    return Lasting(
        state=bench.kept / "state.npz",
        log=logs / f"{stage.title}.jsonl",
        board=logs / stage.title,
        mark=bench.mark,
        heard=bench.heard,
        callbacks=[_callback(bench, one) for one in stage.callbacks],
    )


def _callback(bench: Bench, asked: Callback) -> keras.callbacks.Callback:
    if ":" not in asked.callback:
        return CALLBACKS[asked.callback](**asked.arguments())
    kind = imported(asked.callback, "callbacks", bench.shop.allowed)
    return kind(**asked.arguments())


def _is_quantized(bench: Bench, stage: Any) -> bool:
    return bench.step.models[stage.model] != bench.step.floats[stage.model]


def _sparsity(model: keras.Model) -> str:
    return f"{edge.sparsity_report(model).sparsity:.0%} of the weights are 0"
