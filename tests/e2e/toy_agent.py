"""`python -m tests.e2e.toy_agent`: a worker that trains and scores by hashing; made to be killed at any moment.

It keeps nothing on disk: what it held when it was killed is lost, and the scheduler must notice.
"""

import argparse
import asyncio
import contextlib
import sys

import grpc

from nasmesh.clock import seeded_random
from nasmesh.errors import NasmeshError
from nasmesh.v1 import dispatch_service_pb2 as pb
from nasmesh.v1 import search_pb2
from tests.builders import scheduling as make
from tests.builders.scheduler_server import ScriptedAgent, open_aio_channel

KINDS = (search_pb2.TASK_KIND_TRAIN, search_pb2.TASK_KIND_EVALUATE)


async def work(address: str, name: str, seed: int, most_s: float) -> None:
    """Work over one stream until it ends."""
    rng = seeded_random(seed)
    async with open_aio_channel(address) as channel:
        agent = ScriptedAgent(channel)
        await agent.greet(make.make_hello(name, slots=1, kinds=KINDS))
        for kind in KINDS:
            await agent.want(kind)
        beating = asyncio.create_task(beat(agent))
        try:
            while (message := await agent.call.read()) is not grpc.aio.EOF:
                if message.WhichOneof("kind") == "lease":
                    await asyncio.sleep(rng.random() * most_s)  # the work
                    await agent.say(outcome=make.make_outcome(message.lease))
                    for kind in KINDS:
                        await agent.want(kind)
        finally:
            beating.cancel()


async def beat(agent: ScriptedAgent) -> None:
    while True:
        await asyncio.sleep(5.0)
        await agent.say(heartbeat=pb.AgentHeartbeat())


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scheduler", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--most-s", type=float, required=True)
    flags = parser.parse_args()
    while True:
        with contextlib.suppress(grpc.RpcError, NasmeshError, AssertionError, TimeoutError, asyncio.InvalidStateError):
            await work(flags.scheduler, flags.name, flags.seed, flags.most_s)
        await asyncio.sleep(0.2)  # the scheduler is away


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
