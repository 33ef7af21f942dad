"""Somebody's laptop, as a program: does what its standard input says, one JSON object a line, and answers likewise.

`{"do": "create", "id": …, "spec": FILE, "set": […]}`, `{"do": "watch", "id": …}`, `{"do": "trials", "id": …}` and
`{"do": "agents"}`. Every answer ends with a line `{"done": …}`; a refusal is `{"error": REASON, "text": …}`.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.json_format import MessageToDict

from nasmesh.client import Client, ClientAccess, read_spec
from nasmesh.errors import NasmeshError
from nasmesh.v1 import search_pb2


def say(**line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def answer(client: Client, request: dict[str, object]) -> object:
    """Do one thing; lines that come before the last are said on the way."""
    search_id = str(request.get("id", ""))
    match request["do"]:
        case "create":
            spec = read_spec(Path(str(request["spec"])), [str(item) for item in request["set"]])  # type: ignore[attr-defined]
            return client.create_search(spec, search_id=search_id).name
        case "watch":
            for change in client.watch(search_id):
                say(change=MessageToDict(change))
            search = client.get_search(search_id)
            return [search_pb2.SearchState.Name(search.state), search.reason]
        case "trials":
            return list(trials(client, search_id))
        case "agents":
            return [MessageToDict(agent) for agent in client.agents()]
    raise AssertionError(f"nothing known of {request['do']}")


def trials(client: Client, search_id: str) -> Iterator[dict[str, object]]:
    """Yield what is the same whoever did the work: network, score and trained weights of every trial."""
    for trial in client.list_trials(search_id):
        yield {
            "number": trial.number,
            "outcome": search_pb2.TrialOutcome.Name(trial.outcome),
            "network": trial.network.name,
            "accuracy": [m.value for m in trial.measurements if m.metric == "accuracy"],
            "model": trial.model.sha256,
            "final": trial.final,
            "failure": trial.failure.message,
        }


def main() -> int:
    """Serve until standard input ends."""
    scheduler, files = sys.argv[1], Path(sys.argv[2])
    access = ClientAccess(cert=files / "desk.crt", key=files / "desk.key", token=files / "desk.token")
    with Client(scheduler, access=access, patience_s=60.0) as client:
        for line in sys.stdin:
            try:
                say(done=answer(client, json.loads(line)))
            except NasmeshError as error:
                say(error=error.reason, text=error.message)
    return 0


if __name__ == "__main__":
    sys.exit(main())
