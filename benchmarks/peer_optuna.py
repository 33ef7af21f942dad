"""Optuna's part of `benchmarks.control_plane`, run by the interpreter in .tools/peers: storages, and clients that ask
for a trial, suggest two values, do nothing and tell the result. Imports nothing of ours."""

import argparse
import importlib
import json
import socket
import threading
import time
from typing import Any

STUDY = "nothing"


def storage_of(optuna: Any, url: str) -> Any:
    """Return the storage at "memory:", "sqlite:PATH", "journal:PATH" or "grpc:HOST:PORT"."""
    kind, _, where = url.partition(":")
    if kind == "memory":
        return optuna.storages.InMemoryStorage()
    if kind == "sqlite":
        return optuna.storages.RDBStorage(f"sqlite:///{where}", engine_kwargs={"connect_args": {"timeout": 60}})
    if kind == "journal":
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(where))
    host, _, port = where.rpartition(":")
    return optuna.storages.GrpcStorageProxy(host=host, port=int(port))


def serve(optuna: Any, url: str, port: int) -> None:
    """Serve a storage by Optuna's gRPC proxy until killed."""
    storage = storage_of(optuna, url)
    optuna.create_study(storage=storage, study_name=STUDY)
    optuna.storages.run_grpc_proxy_server(storage, host="127.0.0.1", port=port)


def ask_and_tell(optuna: Any, url: str, clients: int, seconds: float) -> dict[str, float]:
    """Return trials and seconds of clients that are threads of this process, each with a study of its own."""
    if url == "memory:":
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler())
        studies = [study] * clients
    else:
        studies = [
            optuna.load_study(
                study_name=STUDY, storage=storage_of(optuna, url), sampler=optuna.samplers.RandomSampler()
            )
            for _ in range(clients)
        ]
    counts = [0] * clients
    start = time.perf_counter()

    def work(number: int) -> None:
        study = studies[number]
        while time.perf_counter() - start < seconds:
            trial = study.ask()
            trial.suggest_int("layers", 1, 3)
            trial.suggest_categorical("channels", [8, 16])
            study.tell(trial, 0.5)
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"trials": sum(counts), "seconds": time.perf_counter() - start}


def wait_for(url: str) -> None:
    """Return once something listens at "grpc:HOST:PORT"."""
    host, _, port = url.removeprefix("grpc:").rpartition(":")
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.05)


def main() -> None:
    """Serve, or print what was done as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--serve", type=int, default=0, metavar="PORT")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    flags = parser.parse_args()
    optuna = importlib.import_module("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if flags.serve:
        serve(optuna, flags.url, flags.serve)
        return
    if flags.url.startswith("grpc:"):
        wait_for(flags.url)
    print(json.dumps(ask_and_tell(optuna, flags.url, flags.clients, flags.seconds)))


if __name__ == "__main__":
    main()
