"""LinkNetwork of a real scheduler: an address where the store serves, a sentence where it does not."""

import time
import urllib.request
from pathlib import Path

import pytest

from nasmesh.errors import Invalid, NotFound
from nasmesh.store.keys import ObjectKind
from nasmesh.v1 import dispatch_service_pb2 as dispatch_pb
from nasmesh.v1 import scheduler_service_pb2 as pb
from tests.builders import scheduling as make
from tests.builders.s3_servers import weed_server
from tests.builders.s3_stores import new_bucket
from tests.builders.scheduler_calls import go, refused
from tests.builders.scheduler_server import client, create, ended, running, working

REPORT = b'{"of": "an evaluation"}'


def test_link_when_the_store_is_s3_then_the_object_is_downloaded_without_keys(tmp_path: Path) -> None:
    async def body() -> None:
        with weed_server(tmp_path) as server:
            store = new_bucket(server).store()

            def script(lease: dispatch_pb.Lease) -> dispatch_pb.AttemptOutcome:
                outcome = make.make_outcome(lease)
                if lease.HasField("evaluate"):
                    outcome.evaluate.report.CopyFrom(store.put(ObjectKind.REPORT, REPORT, extension="json"))
                return outcome

            async with running(store=store) as scheduler, client(scheduler.address) as stub:
                async with working(scheduler.address, script):
                    await create(stub, make.make_spec(max_trials=1), search_id="s")
                    await ended(stub, "searches/s")
                request = pb.LinkNetworkRequest(name="searches/s/trials/1", form=pb.EXPORT_FORM_REPORT)
                request.lifetime.seconds = 60
                found = await stub.LinkNetwork(request)
                assert urllib.request.urlopen(found.url, timeout=10).read() == REPORT
                assert found.object.size_bytes == len(REPORT)
                assert 0 < found.expire_time.seconds - time.time() <= 61
                assert server.secret_key not in found.url
                for seconds in (0, -1, 8 * 24 * 3600):
                    request.lifetime.seconds = seconds
                    assert (await refused(stub.LinkNetwork(request), Invalid)).field == "lifetime"

    go(body())


@pytest.mark.parametrize(("name", "error", "reason"), [("searches/s/trials/9", NotFound, "TRIAL_UNKNOWN")])
def test_link_when_there_is_no_such_thing_then_said(name: str, error: type[NotFound], reason: str) -> None:
    async def body() -> None:
        async with running() as scheduler, client(scheduler.address) as stub, working(scheduler.address):
            await create(stub, make.make_spec(max_trials=1), search_id="s")
            await ended(stub, "searches/s")
            assert (await refused(stub.LinkNetwork(pb.LinkNetworkRequest(name=name)), error)).reason == reason
            request = pb.LinkNetworkRequest(name="searches/s/trials/1", form=pb.EXPORT_FORM_NETWORK)
            unsupported = await refused(stub.LinkNetwork(request), Invalid)
            assert (unsupported.reason, unsupported.field) == ("LINK_UNSUPPORTED", "link")

    go(body())
