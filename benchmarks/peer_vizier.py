"""Vizier's part of `benchmarks.control_plane`, run by the interpreter in .tools/peers: its service over an SQLite file
with the random designer, and clients that take a suggestion, do nothing and complete it. Imports nothing of ours."""

import argparse
import importlib
import json
import sys
import threading
import time
from typing import Any


def study_config() -> Any:
    """Return a study of two choices under the random designer."""
    vz = importlib.import_module("vizier.service.pyvizier")
    config = vz.StudyConfig(algorithm="RANDOM_SEARCH")
    config.search_space.root.add_int_param("layers", 1, 3)
    config.search_space.root.add_categorical_param("channels", ["8", "16"])
    config.metric_information.append(vz.MetricInformation("accuracy", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    return config


def serve(path: str) -> None:
    """Serve over an SQLite file, print where, and go on until standard input ends."""
    servers = importlib.import_module("vizier.service.servers")
    server = servers.DefaultVizierServer(database_url=f"sqlite:///{path}")
    print(json.dumps({"address": server.endpoint}), flush=True)
    sys.stdin.read()


def suggest_and_complete(address: str, clients: int, seconds: float) -> dict[str, float]:
    """Return trials and seconds of clients that are threads of this process."""
    api = importlib.import_module("vizier.service.clients")
    vz = importlib.import_module("vizier.service.pyvizier")
    api.environment_variables.server_endpoint = address
    study = api.Study.from_study_config(study_config(), owner="benchmark", study_id="nothing")
    counts = [0] * clients
    start = time.perf_counter()

    def work(number: int) -> None:
        while time.perf_counter() - start < seconds:
            for trial in study.suggest(count=1, client_id=f"client-{number}"):
                trial.complete(vz.Measurement({"accuracy": 0.5}))
                counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"trials": sum(counts), "seconds": time.perf_counter() - start}


def main() -> None:
    """Serve, or print what was done as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", default="", metavar="PATH")
    parser.add_argument("--address", default="")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    flags = parser.parse_args()
    if flags.serve:
        serve(flags.serve)
    else:
        print(json.dumps(suggest_and_complete(flags.address, flags.clients, flags.seconds)))


if __name__ == "__main__":
    main()
