"""Checks a search's specification and fills its defaults in. Every fault is named, not only the first."""

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from nasmesh import evaluate_config, ids, training_config
from nasmesh.data import catalog
from nasmesh.data.info import DatasetInfo
from nasmesh.data.manifest import info_of_dataset
from nasmesh.errors import FieldViolation, Invalid, NasmeshError, Unavailable
from nasmesh.v1 import dataset_pb2, generate_service_pb2, measurement_pb2
from nasmesh.v1 import search_pb2 as pb
from scheduler.early_stopping import stopping_faults
from scheduler.faults import Fault, checked
from scheduler.generator_settings import complete_settings
from scheduler.outcomes import complete_train
from scheduler.validate_data import training_data_faults
from scheduler.validate_final import final_faults
from scheduler.validate_metrics import constraint_faults, further_faults, objective_faults, table_faults
from scheduler.validate_space import drop_path_faults, space_faults

_SPEC_BYTES = 256 * 1024
_LABELS = 32
_LABEL_CHARS = 128
_PARALLELISM = 1000


def complete_spec(
    spec: pb.SearchSpec,
    generators: Sequence[generate_service_pb2.Generator],
    added: Mapping[str, dataset_pb2.Dataset] = MappingProxyType({}),
) -> pb.SearchSpec:
    """Return the spec with every default filled in, given the generators that connected agents serve.

    `added` are the data sets that the caller may use besides the built-in ones, by resource name.
    Raises Invalid (SPEC_INVALID) with every field that is wrong; Unavailable (GENERATOR_ABSENT) if all else is right.
    """
    if spec.ByteSize() > _SPEC_BYTES:
        raise Invalid("SPEC_INVALID", f"spec: {spec.ByteSize()} bytes, at most {_SPEC_BYTES}", field="spec")
    full = pb.SearchSpec()
    full.CopyFrom(spec)
    generator = next((g for g in generators if g.name == spec.generator.generator), None)
    classes = _classes_of(spec.data, added)
    wrong_data = [*checked("data", lambda: full.data.CopyFrom(_data(spec, added)))]
    info = None if wrong_data else _info_of(full.data, added)
    samples = catalog.split_sizes(full.data, info)[0] if info is not None else 0
    faults = [
        *wrong_data,
        *_generator_faults(full, generator),
        *space_faults(spec.space, generator),
        *_sample_faults(spec, added.get(_dataset_name(spec.data))),
        *objective_faults(spec, classes),
        *constraint_faults(spec, classes),
        *further_faults(spec, classes),
        *_budget_faults(spec.budget),
        *_number_faults(spec),
        *_enum_faults(spec),
        *_train_faults(full),
        *_evaluate_faults(full),
        *stopping_faults(full, samples),
        *checked("instrumentation", lambda: training_config.check_instrumentation(spec.instrumentation)),
        *drop_path_faults(spec),
        *(final_faults(full) if spec.HasField("final") else ()),
        *table_faults(spec),
        *(training_data_faults(full, info) if info is not None else ()),
    ]
    if faults:
        found = [FieldViolation(f"spec.{field}", f"spec.{field}: {what}") for field, what in faults]
        raise Invalid("SPEC_INVALID", _summary(found), violations=found)
    if generator is None:
        raise _absent(spec.generator.generator, generators)
    full.parallelism = spec.parallelism or 1
    full.cache = spec.cache or pb.CACHE_MODE_REUSE
    full.judging = spec.judging or pb.JUDGING_EARLY
    return full


def check_changed(spec: pb.SearchSpec) -> None:
    """Check the fields that may be changed later; raises Invalid (SPEC_INVALID) with every field that is wrong."""
    faults = [*_budget_faults(spec.budget), *_number_faults(spec)]
    if faults:
        found = [FieldViolation(f"search.spec.{field}", f"search.spec.{field}: {what}") for field, what in faults]
        raise Invalid("SPEC_INVALID", _summary(found), field=found[0].field, violations=found)


def _summary(found: Sequence[FieldViolation]) -> str:
    more = f" (and {len(found) - 1} more: {', '.join(v.field for v in found[1:8])})" if len(found) > 1 else ""
    return found[0].description + more


def _absent(name: str, generators: Sequence[generate_service_pb2.Generator]) -> Unavailable:
    known = [generator.name for generator in generators]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    served = ", ".join(known) or "none"
    return Unavailable(
        "GENERATOR_ABSENT",
        f"spec.generator.generator: no connected server offers {name}{hint} Offered now: {served}."
        " Start one: nasmesh serve generate --scheduler HOST:PORT",
        field="spec.generator.generator",
    )


def _data(spec: pb.SearchSpec, added: Mapping[str, dataset_pb2.Dataset]) -> dataset_pb2.DatasetSpec:
    """Return the data complete, with the manifest of an added data set."""
    found = added.get(_dataset_name(spec.data))
    named = dataset_pb2.DatasetSpec()
    named.CopyFrom(spec.data)
    if spec.data.HasField("manifest") and (found is None or found.manifest != spec.data.manifest):
        what = f"there is no added data set {spec.data.dataset}" if found is None else "it is another data set by now"
        raise Invalid(
            "DATASET_SPEC_INVALID",
            f"data.manifest: {what}; leave this unset, the name says which is meant",
            field="data.manifest",
        )
    info = None
    if found is not None:
        named.manifest.CopyFrom(found.manifest)
        info = info_of_dataset(found)
    info = catalog.check(named, field="data", info=info, others=added)
    return catalog.complete(named, info)


def _dataset_name(data: dataset_pb2.DatasetSpec) -> str:
    return data.dataset if "/" in data.dataset else f"datasets/{data.dataset}"


def _classes_of(data: dataset_pb2.DatasetSpec, added: Mapping[str, dataset_pb2.Dataset]) -> int | None:
    """Return how many classes are told apart; None where nothing is known of the data set."""
    name = _dataset_name(data)
    if name in added:
        return len(data.view.classes) or added[name].classes
    known = catalog.DATASETS.get(name.rpartition("/")[2])
    return len(data.view.classes) or known.classes if known else None


def _info_of(data: dataset_pb2.DatasetSpec, added: Mapping[str, dataset_pb2.Dataset]) -> DatasetInfo | None:
    """Return what is known of the data of a complete specification; None: the specification is wrong."""
    found = added.get(_dataset_name(data))
    try:
        return info_of_dataset(found) if found is not None else catalog.describe(data.dataset)
    except NasmeshError:
        return None


def _sample_faults(spec: pb.SearchSpec, data: dataset_pb2.Dataset | None) -> Iterator[Fault]:
    """Yield why networks of the space cannot take the data's samples: few take the columns of a table."""
    kind = spec.space.WhichOneof("kind")
    if data is None or kind in (None, "fixed") or len(data.sample_dims) != 1:
        return
    if kind != "chain":
        yield "space", f"{kind} is for images and series, {data.name} has rows of a table; use chain or fixed"
    elif list(spec.space.chain.kernels) != [1] or spec.space.chain.pooling:
        yield "space.chain.kernels", f"{data.name} has rows of a table, which have no kernels: give [1], and no pooling"


def _generator_faults(full: pb.SearchSpec, generator: generate_service_pb2.Generator | None) -> Iterator[Fault]:
    name = full.generator.generator
    if not name:
        yield "generator.generator", "name an algorithm, for example generators/nac"
        return
    yield from checked("generator.generator", lambda: ids.parse_name("generators", name, field="generator.generator"))
    if generator is not None:
        yield from (
            (f"generator.settings{field}", what)
            for field, what in complete_settings(full.generator.settings, generator.settings_schema)
        )


def _budget_faults(budget: pb.Budget) -> Iterator[Fault]:
    for name in ("max_trials", "max_iterations", "max_wall_time_s", "max_device_time_s"):
        value = getattr(budget, name)
        if not math.isfinite(value) or value < 0:
            yield f"budget.{name}", f"must be a positive number, or 0 for none, not {value:g}"
    if budget.HasField("target") and not math.isfinite(budget.target):
        yield "budget.target", f"must be a finite number, not {budget.target:g}"
    bounded = (budget.max_trials, budget.max_iterations, budget.max_wall_time_s, budget.max_device_time_s)
    if not any(bounded) and not budget.HasField("target"):
        yield "budget", "set at least one of max_trials, max_iterations, max_wall_time_s, max_device_time_s, target"


def _number_faults(spec: pb.SearchSpec) -> Iterator[Fault]:
    if not 0 <= spec.parallelism <= _PARALLELISM:
        yield "parallelism", f"must be 1 to {_PARALLELISM} (0: 1), not {spec.parallelism}"
    if not -100 <= spec.priority <= 100:
        yield "priority", f"must be -100 to 100, not {spec.priority}"
    if len(spec.labels) > _LABELS:
        yield "labels", f"at most {_LABELS}, not {len(spec.labels)}"
    for key, value in spec.labels.items():
        if not 0 < len(key) <= _LABEL_CHARS or len(value) > _LABEL_CHARS or "=" in key or "," in key + value:
            yield (
                f"labels[{key[:40]}]",
                f"at most {_LABEL_CHARS} characters in keys and values, no ',', no '=' in keys",
            )


def _enum_faults(spec: pb.SearchSpec) -> Iterator[Fault]:
    if spec.cache not in pb.CacheMode.values():
        yield "cache", f"{spec.cache} is unknown; use CACHE_MODE_REUSE or CACHE_MODE_REPEAT"
    if spec.final.pick not in pb.FinalPick.values():
        yield "final.pick", f"{spec.final.pick} is unknown; use FINAL_PICK_BEST or FINAL_PICK_LAST"
    if spec.judging not in pb.Judging.values():
        yield "judging", f"{spec.judging} is unknown; use JUDGING_EARLY or JUDGING_LATE"


def _train_faults(full: pb.SearchSpec) -> Iterator[Fault]:
    for name, config in (("train", full.train), ("final.train", full.final.train)):
        if config.max_time_s:
            yield f"{name}.max_time_s", "the final phase alone is cut to a time; set final.max_train_time_s"
    if full.train.include_validation:
        yield (
            "train.include_validation",
            "only the final phase may train on the validation split; set it in final.train",
        )
    if full.evaluate.table:
        return  # nothing is trained
    yield from checked("train", lambda: training_config.check(full.train, "train"))
    full.train.CopyFrom(complete_train(full.train))


def _evaluate_faults(full: pb.SearchSpec) -> Iterator[Fault]:
    if full.evaluate.split not in (measurement_pb2.SPLIT_UNSPECIFIED, measurement_pb2.SPLIT_VALIDATION):
        yield (
            "evaluate.split",
            "the search phase is scored on SPLIT_VALIDATION; only the final phase sees the test split",
        )
    if full.evaluate.further_split:
        yield "evaluate.further_split", "the scheduler sets it in the final phase; leave it unset"
    yield from checked("evaluate", lambda: evaluate_config.check(full.evaluate, "evaluate"))
    full.evaluate.CopyFrom(evaluate_config.complete(full.evaluate))
