"""A whole mesh on S3, by one variable: the same search comes to the same while its store dies and comes back."""

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path

from nasmesh.client import read_spec
from nasmesh.v1 import search_pb2
from tests.builders.s3_proxy import proxy_before
from tests.builders.s3_servers import weed_server
from tests.builders.s3_stores import new_bucket
from tests.e2e.mesh import ROOT, Mesh
from tests.e2e.test_store_outage import until


def test_search_when_the_store_is_killed_in_the_middle_then_it_ends_as_undisturbed(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    spec = read_spec(ROOT / "examples" / "fixed.yaml", ["train.steps=20", "seed=7", "cache=CACHE_MODE_REPEAT"])
    with weed_server(tmp_path / "weed") as server, proxy_before(server.endpoint) as proxy:
        bucket = new_bucket(server)
        variables = {
            "NASMESH_STORE": server.url(bucket.name, endpoint=proxy.endpoint),
            "NASMESH_STORE_CREDENTIALS": str(server.credentials),
        }
        with Mesh(tmp_path / "home", variables=variables) as mesh, mesh.client() as client:
            assert client.server_info().store == "s3"
            name = client.create_search(spec).name
            until(client, lambda: client.get_search(name).end_time.seconds)
            wanted = [measured(trial) for trial in client.list_trials(name)]
            sent = f"{proxy.passed.total()} requests, {proxy.bytes_up:,} bytes up, {proxy.bytes_down:,} bytes down"
            record_property("counts", f"a search of {len(wanted)} trials on S3: {sent}")
            before = proxy.passed["PUT"]
            name = client.create_search(spec).name
            until(client, lambda: proxy.passed["PUT"] > before)
            server.kill()
            until(client, lambda: proxy.unanswered)
            server.start()
            until(client, lambda: client.get_search(name).end_time.seconds)
            found = client.get_search(name)
            assert found.state == search_pb2.SEARCH_STATE_SUCCEEDED, found.reason
            assert [measured(trial) for trial in client.list_trials(name)] == wanted
            told = json.loads(mesh.nasmesh("network", "link", f"{name}/trials/1", "--json").stdout)
            content = urllib.request.urlopen(told["url"], timeout=10).read()
            assert len(content) == int(told["object"]["sizeBytes"])
            for log in tmp_path.glob("home/**/*.log"):
                assert server.secret_key not in log.read_text(errors="replace"), log
        assert not (tmp_path / "home" / "objects").exists()


def measured(trial: search_pb2.Trial) -> tuple[object, ...]:
    """Return what a trial came to, without times."""
    kept = sorted((item.metric, item.value) for item in trial.measurements if "accuracy" in item.metric)
    return (trial.outcome, trial.network.name, tuple(kept))
