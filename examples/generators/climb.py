#!/usr/bin/env python3
"""A NAS algorithm in one file, without any library: changes the best network so far, keeps what is better.

    nasmesh serve generate --scheduler 127.0.0.1:7400 --program examples/generators/climb.py --program-format json

Copy it and change `propose`. It is started anew for every call and remembers nothing: whatever it needs next time goes
into the state. The messages are those of protos/nasmesh/v1/generate_service.proto in protobuf's JSON mapping.
"""

import base64
import json
import random
import sys

GENERATOR = {
    "name": "generators/climb",
    "version": "1.0",
    "description": "Hill climbing on the choices of a space: random changes of the best network, from a random start.",
    "settingsSchema": {
        "type": "object",
        "properties": {"changes": {"type": "integer", "minimum": 1, "maximum": 10, "default": 1}},
        "additionalProperties": False,
    },
}


def is_active(choice, values):
    """Whether the choice counts, given the values of those before it."""
    for condition in choice.get("conditions", []):
        value = values.get(condition["choice"])
        if value is None:
            return False
        if "atLeast" in condition and int(value) < int(condition["atLeast"]):
            return False
        if "oneOf" in condition and value not in condition["oneOf"]:
            return False
    return True


def draw(choice, rng):
    """A value of the choice, as text."""
    if "categorical" in choice:
        return rng.choice(choice["categorical"]["values"])
    if "integer" in choice:
        domain = choice["integer"]
        return str(rng.randint(int(domain.get("min", 0)), int(domain.get("max", 0))))
    domain = choice["real"]
    return repr(rng.uniform(domain.get("min", 0.0), domain.get("max", 0.0)))


def changed(choices, values, changes, rng):
    """A network that differs from `values` in some choices; choices that come to count are drawn."""
    fresh = {choice["name"] for choice in rng.sample(choices, min(changes, len(choices)))}
    result = {}
    for choice in choices:
        if is_active(choice, result):
            name = choice["name"]
            result[name] = values[name] if name in values and name not in fresh else draw(choice, rng)
    return result


def score(result, objective):
    """What the network reached, larger is better; None where it was not measured."""
    for measurement in result.get("measurements", []):
        if measurement["metric"] == objective["metric"] and measurement.get("split") != "SPLIT_TRAIN":
            value = measurement.get("value", 0.0)
            return value if objective["goal"] == "GOAL_MAXIMIZE" else -value
    return None


def propose(request):
    """The answer to one call; the same for the same request."""
    rng = random.Random(f"{request.get('seed', 0)} {request['call']}")
    state = json.loads(base64.b64decode(request.get("state", ""))) if request.get("state") else {}
    tried, best = state.get("tried", {}), state.get("best")
    for result in request.get("results", []):
        values = tried.pop(result.get("proposalId", ""), None)
        reached = score(result, request["objectives"][0])
        if values is not None and reached is not None and (best is None or reached > best["score"]):
            best = {"score": reached, "values": values}
    proposals = []
    for index in range(request["count"]):
        changes = int(request.get("settings", {}).get("changes", 1))
        start = best["values"] if best else {}
        values = changed(request["choices"], start, changes if best else len(request["choices"]), rng)
        name = f"climb-{request['call']}-{index}"
        tried[name] = values
        note = f"from a network that reached {best['score']:.4f}" if best else "a random start"
        proposals.append({"choices": {"values": values}, "proposalId": name, "note": note})
    text = json.dumps({"tried": tried, "best": best})
    return {"proposals": proposals, "state": base64.b64encode(text.encode()).decode()}


if __name__ == "__main__":
    answer = GENERATOR if sys.argv[1] == "describe" else propose(json.load(sys.stdin))
    json.dump(answer, sys.stdout)
