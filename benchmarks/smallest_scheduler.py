"""The smallest durable scheduler, to measure ours against: streams, one SQLite transaction a round, then the replies.

It speaks as much of DispatchService as a closed-loop agent needs. Every outcome and every lease is an event; all events
that arrived while the last transaction was written go into the next (synchronous=FULL), and only then are answered.
There is no search, no queue, no check: a lease names the next number.
"""

# ruff: noqa: N802, ARG002 - names and signatures are the contract's

import argparse
import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc.aio

from nasmesh.rpc import options
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import dispatch_service_pb2_grpc as rpc

RECORDED = pb.OUTCOME_DISPOSITION_RECORDED


class Smallest(rpc.DispatchServiceServicer):
    """Leases numbers, records outcomes."""

    def __init__(self, path: Path) -> None:
        """Open the file."""
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE event (body BLOB);")
        self._round: list[tuple[asyncio.Queue[pb.WorkResponse], pb.AgentReport]] = []
        self._leased = 0
        self._came = asyncio.Event()

    async def Work(self, request_iterator: AsyncIterator[pb.WorkRequest], context: Any) -> AsyncIterator[Any]:
        """Converse with one agent."""
        replies: asyncio.Queue[pb.WorkResponse] = asyncio.Queue()
        reader = asyncio.create_task(self._read(request_iterator, replies))
        try:
            while True:
                yield await replies.get()
        finally:
            reader.cancel()

    async def GetAttempt(self, request: pb.GetAttemptRequest, context: Any) -> pb.GetAttemptResponse:
        """Know nothing."""
        return pb.GetAttemptResponse()

    async def _read(self, requests: AsyncIterator[pb.WorkRequest], replies: "asyncio.Queue[pb.WorkResponse]") -> None:
        async for request in requests:
            if request.HasField("hello"):
                replies.put_nowait(pb.WorkResponse(welcome=pb.Welcome(epoch=1)))
            else:
                self._round.append((replies, request.report))
                self._came.set()

    async def rounds(self) -> None:
        """Write and answer, round after round."""
        loop, writer = asyncio.get_running_loop(), ThreadPoolExecutor(1)
        while True:
            await self._came.wait()
            self._came.clear()
            taken, self._round = self._round, []
            answers = [(replies, self._answer(report)) for replies, report in taken]
            events = [(report.SerializeToString(),) for _, report in taken]
            events += [(answer.SerializeToString(),) for _, answer in answers]
            await loop.run_in_executor(writer, self._write, events)
            for replies, answer in answers:
                replies.put_nowait(answer)

    def _answer(self, report: pb.AgentReport) -> pb.WorkResponse:
        answer = pb.WorkResponse()
        for outcome in report.outcomes:
            answer.batch.outcome_replies.add(token=outcome.token, disposition=RECORDED)
        for ready in report.ready[:1]:
            self._leased += 1
            lease = answer.batch.leases.add(search="searches/s", trial=f"searches/s/trials/{self._leased}")
            lease.token.task, lease.token.attempt, lease.token.epoch = f"s-{self._leased}", 1, 1
            lease.train.config.steps = 10 * ready.free
        return answer

    def _write(self, events: list[tuple[bytes]]) -> None:
        self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO event VALUES (?)", events)
        self._db.execute("COMMIT")


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--port-file", type=Path, required=True)
    flags = parser.parse_args()
    server = grpc.aio.server(options=options.server_options(options.Connections()))
    smallest = Smallest(flags.port_file.with_name("smallest.db"))
    rpc.add_DispatchServiceServicer_to_server(smallest, server)
    port = server.add_insecure_port(flags.listen)
    await server.start()
    part = flags.port_file.with_suffix(".part")
    part.write_text(f"127.0.0.1:{port}\n")
    os.replace(part, flags.port_file)
    await smallest.rounds()


if __name__ == "__main__":
    asyncio.run(main())
