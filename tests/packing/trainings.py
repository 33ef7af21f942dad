"""Random trainings: a network of each built-in space in turn, control parameters by chance, on the digits data set."""

from collections.abc import Iterator
from random import Random

from nasmesh import spaces
from nasmesh.model.encode import to_bytes
from nasmesh.model.lower import lower
from nasmesh.store.base import ObjectStore
from nasmesh.store.keys import ObjectKind
from nasmesh.v1 import space_pb2, training_pb2
from nasmesh.v1 import train_service_pb2 as pb
from tests.builders.generating import build, chain, envelope

KINDS = ("envelope", "cell", "chain")


def random_space(kind: str, rng: Random) -> space_pb2.Space:
    """Return a space of a kind whose networks are of very different sizes."""
    width = rng.choice([8, 16, 32, 48])
    if kind == "envelope":
        return envelope((1, rng.randint(1, 3), True), (1, 2, False), width=width)
    if kind == "cell":
        cells = [rng.randint(1, 3) for _ in range(3)]
        return space_pb2.Space(cell=space_pb2.CellSpace(width=width, cells=cells))
    return chain(max_layers=rng.randint(2, 8), channels=[width, 2 * width], pooling=rng.random() < 0.5)


def random_config(rng: Random) -> training_pb2.TrainConfig:
    """Return control parameters that memory depends on, for two updates."""
    config = training_pb2.TrainConfig(steps=2, batch_size=rng.choice([32, 64, 128, 256, 512]))
    config.optimizer.kind = rng.choice([1, 2, 3, 4])
    config.seed = rng.randrange(1000)
    config.compute.layout = rng.choice([training_pb2.LAYOUT_AUTO, training_pb2.LAYOUT_NCHW])
    if rng.random() < 0.2:
        config.ema_decay = 0.99
    if rng.random() < 0.2:
        config.sam_rho = 0.05
    if rng.random() < 0.2:
        config.accumulate_batches = 4
    if rng.random() < 0.2:
        config.compute.precision = training_pb2.PRECISION_BFLOAT16
    if rng.random() < 0.3:
        config.augmentation.flip, config.augmentation.crop_padding = True, 1
    if rng.random() < 0.2:
        config.validate_every_steps = 1
    return config


def random_trainings(count: int, seed: int, store: ObjectStore) -> Iterator[pb.StartTrainingRequest]:
    """Yield so many trainings; each depends on the seed and its number alone."""
    for number in range(count):
        rng = Random(f"{seed} {number}")
        kind = KINDS[number % len(KINDS)]
        space = spaces.complete(random_space(kind, rng))
        network = store.put(ObjectKind.NETWORK, to_bytes(lower(build(space, spaces.sample(space, rng)))))
        request = pb.StartTrainingRequest(training_id=f"{kind}-{number}", network=network, config=random_config(rng))
        request.data.dataset = "datasets/digits"
        yield request
