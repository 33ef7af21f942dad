"""The chart where KEDA scales servers by what its deployer says: both sides name the same pools, door and secrets."""

from typing import Any

import yaml

from scheduler.deployers.config import parse_config
from tests.builders import deployments
from tests.builders.deployments import CHART

VALUES: dict[str, Any] = yaml.safe_load((CHART / "ci" / "deployer-keda.yaml").read_text())


def made(kind: str, values: dict[str, Any] = VALUES) -> dict[str, dict[str, Any]]:
    return {found["metadata"]["name"]: found for found in deployments.objects(values) if found["kind"] == kind}


def test_each_scaled_object_asks_for_a_pool_that_the_deployer_keeps_with_the_same_bounds() -> None:
    pools = {pool.name: pool for pool in parse_config(made("ConfigMap")["mesh-deployer"]["data"]["pools.yaml"]).pools}
    assert set(pools) == {"generate", "train-small", "train-large", "evaluate"}
    scaled, deployed = made("ScaledObject"), made("Deployment")
    assert set(scaled) == {f"mesh-{name}" for name in pools}
    commands = {c.flag("--label"): c for c in deployments.pod_commands(deployments.objects(VALUES)) if c.program}
    for name, pool in pools.items():
        spec = scaled[f"mesh-{name}"]["spec"]
        assert spec["scaleTargetRef"]["name"] in deployed
        assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (pool.min_servers, pool.max_servers)
        assert spec["cooldownPeriod"] == pool.cool_down.seconds
        (trigger,) = spec["triggers"]
        assert (trigger["type"], trigger["metadata"]["pool"]) == ("external-push", name)
        # The deployer knows the servers of a pool by this label.
        command = commands[f"pool={name}"]
        assert pool.WhichOneof("engine") == "external"
        assert command.flag("--slots") == str(pool.slots)
        for word in pool.arguments:
            assert word.split("=")[0] in [said.split("=")[0] for said in command.words], (name, word)
    assert [name for name, pool in pools.items() if any("--gang-listen" in word for word in pool.arguments)] == [
        "train-large"
    ]


def test_keda_reaches_the_deployer_and_shows_what_it_is_asked_for() -> None:
    (service,) = [found for name, found in made("Service").items() if name == "mesh-deployer"]
    (port,) = service["spec"]["ports"]
    address = f"mesh-deployer.mesh-namespace.svc:{port['port']}"
    (pod,) = [template for name, template in deployments.pods(deployments.objects(VALUES)) if name == "mesh-deployer"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    secrets = {v["name"]: v["secret"]["secretName"] for v in pod["spec"]["volumes"] if "secret" in v}
    for found in made("ScaledObject").values():
        (trigger,) = found["spec"]["triggers"]
        assert trigger["metadata"]["scalerAddress"] == address
        (shown,) = [made("TriggerAuthentication")[trigger["authenticationRef"]["name"]]]
        # The parameters of KEDA's external scalers; where none is set, it speaks plain text.
        assert {ref["parameter"]: ref["key"] for ref in shown["spec"]["secretTargetRef"]} == {
            "caCert": "ca.crt",
            "tlsClientCert": "tls.crt",
            "tlsClientKey": "tls.key",
        }
        assert {ref["name"] for ref in shown["spec"]["secretTargetRef"]} == {secrets["keda"]}
    rules = made("NetworkPolicy")["mesh-deployer"]["spec"]["ingress"]
    opened = {rule["ports"][0]["port"]: rule["from"][0]["namespaceSelector"]["matchLabels"] for rule in rules}
    assert opened["grpc"] == {"kubernetes.io/metadata.name": "keda"}


def test_without_it_the_deployer_stays_in_its_pod_and_keda_asks_prometheus() -> None:
    servers = {name: given for name, given in VALUES["servers"].items() if given}
    values = {"servers": servers, "deployer": {"enabled": True, "pools": [_pool("other")]}}
    assert "mesh-deployer" not in made("Service", values)
    assert not made("TriggerAuthentication", values)
    (command,) = [c for c in deployments.pod_commands(deployments.objects(values)) if c.program == "deployer"]
    assert command.flag("--listen") == "127.0.0.1:7404"
    triggers = [found["spec"]["triggers"][0]["type"] for found in made("ScaledObject", values).values()]
    assert set(triggers) == {"prometheus"}
    (given,) = [found["data"]["pools.yaml"] for found in made("ConfigMap", values).values()]
    assert [pool.name for pool in parse_config(given).pools] == ["other"]


def test_keda_without_a_deployer_is_refused_by_name() -> None:
    told = deployments.helm({"deployer": {"keda": {"enabled": True}}})
    assert "manifest" not in told
    assert "deployer.keda.enabled: needs deployer.enabled" in told["error"]


def test_pools_of_its_own_stand_before_those_that_keda_scales() -> None:
    values = {**VALUES, "deployer": {**VALUES["deployer"], "pools": [_pool("own")]}}
    (given,) = [found["data"]["pools.yaml"] for found in made("ConfigMap", values).values()]
    assert [pool.WhichOneof("engine") for pool in parse_config(given).pools] == ["kubernetes", *["external"] * 4]


def _pool(name: str) -> dict[str, Any]:
    return {"name": name, "kind": "TASK_KIND_TRAIN", "maxServers": 1, "kubernetes": {"image": "i"}}
