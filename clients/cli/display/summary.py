"""What is said when a search has ended: the score and where everything is."""

from clients.cli.display.view import (
    SearchView,
    format_count,
    format_duration,
    format_metric,
    is_partly_trained,
    score,
    short,
    state_word,
    told_partly_trained,
)
from clients.cli.report.artefacts import CHECKPOINT, EVALUATION, INT8, LOADER, MODEL, PYTHON, WEIGHTS
from clients.cli.report.figures import measurements
from clients.cli.report.finals import chosen_by, final_json, finals, headline
from clients.cli.report.folder import CARD, FIGURES, PLOT, REPORT, Written
from nasmesh.client.best import best_trial
from nasmesh.clock import SystemClock
from nasmesh.v1 import measurement_pb2, search_pb2
from nasmesh.v1.search_pb2 import Search

_PATH_KEYS = {
    MODEL: "model",
    CHECKPOINT: "checkpoint",
    INT8: "int8",
    PYTHON: "python",
    WEIGHTS: "weights",
    LOADER: "loader",
    EVALUATION: "evaluation",
    CARD: "card",
    REPORT: "report",
    FIGURES: "figures",
    PLOT: "plot",
}


def summary_lines(search: Search, view: SearchView, written: Written | None) -> list[str]:
    """Return the sentences that end a search."""
    view.search = search
    spent = format_duration(view.elapsed_s(SystemClock()))
    told = search.state == search_pb2.SEARCH_STATE_SUCCEEDED  # why a success ended is in the report
    reason = f": {search.reason}" if search.reason and not told else ""
    lines = [f"{search.name} {state_word(search)} after {spent}{reason}"]
    best = written.collected.best if written else best_trial(search, view.trials.values())
    if best is None:
        return lines
    size = f"{format_count(best.network.parameters)} parameters, {format_count(best.network.macs)} MACs"
    metric = written.collected.metric if written else headline(search)
    test = score(best, metric, measurement_pb2.SPLIT_TEST)
    if test is not None:
        title = f"test {metric}"
        found = finals(view.trials.values(), metric)
        trained = sum(len(final.trials) for final in found)
        how = "scored once, by the final network"
        if trained > 1:
            chosen = chosen_by(search, best)
            of = f"of {trained} final trainings, scored once each"
            # Who is picked by a score has a lucky one.
            how = f"the best {of}, so partly luck" if chosen is None else f"the one {of}, chosen by {chosen}"
        lines.append(f"  {title:<13}  {format_metric(metric, test)}, {how} ({size})")
        lines += [f"  over seeds     {final}" for final in found if best in final.trials and len(final.trials) > 1]
    else:
        validation = format_metric(metric, score(best, metric, measurement_pb2.SPLIT_VALIDATION))
        lines.append(f"  best network   validation {metric} {validation} ({size}); the test split was not used")
        if is_partly_trained(best):
            lines.append(f"  training       {told_partly_trained(best)}")
    if written is None and search.spec.evaluate.table:
        lines.append(f"  looked up in   {search.spec.evaluate.table}; nothing was trained, so there is no model")
        return lines
    if written is None:
        lines.append(f"  get it with    nasmesh search best {short(search.name)} --out DIR")
        return lines
    checked = (
        "run by onnxruntime"
        if any(check.startswith("onnxruntime") and " ran a batch" in check for check in written.checks)
        else "digest"
    )
    lines.append(f"  network        {written.path(MODEL)}  (checked: {checked})")
    if INT8 in written.files:
        lines.append(f"  8-bit copy     {written.path(INT8)}")
    if PYTHON in written.files:
        lines.append(f"  PyTorch        {written.path(PYTHON)}  (stand-alone, weights beside it)")
    lines.append(f"  report         {written.path(REPORT)}")
    if PLOT in written.files:
        lines.append(f"  growth plot    {written.path(PLOT)}")
    else:
        lines.append("  growth plot    not drawn: matplotlib is not installed (pip install 'nasmesh[report]')")
    return lines


def summary_json(search: Search, view: SearchView, written: Written | None) -> dict[str, object]:
    """Return the one object that `search create --wait --json` and `search best --json` print."""
    best = written.collected.best if written else best_trial(search, view.trials.values())
    view.search = search
    return {
        "search": search.name,
        "state": search_pb2.SearchState.Name(search.state),
        "reason": search.reason,
        "bestTrial": best.name if best else None,
        "bestNetwork": best.network.name if best else None,
        "parameters": best.network.parameters if best else None,
        "macs": best.network.macs if best else None,
        "testAccuracy": score(best, "accuracy", measurement_pb2.SPLIT_TEST) if best else None,
        "measurements": measurements(best) if best else [],
        "finals": [final_json(final) for final in finals(view.trials.values(), headline(search))],
        "wallTimeS": round(view.elapsed_s(SystemClock()), 3),
        "deviceTimeS": round(search.device_time_s, 3),
        "paths": {_PATH_KEYS[name]: written.path(name) for name in written.files} if written else {},
    }
