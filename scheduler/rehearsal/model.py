"""How long training and scoring take, and what comes out: a model with noise that the seed decides. Pure."""

import math
from dataclasses import dataclass

from nasmesh import metrics
from nasmesh.clock import derive_seed, seeded_random
from nasmesh.errors import Invalid
from nasmesh.v1 import measurement_pb2, training_pb2
from nasmesh.v1 import search_pb2 as pb
from scheduler.early_stopping import total_steps
from scheduler.rehearsal.data import Data

_DEFAULT_EPOCHS = 1.0
_DEFAULT_BATCH = 64
_CLASS = "class_"


@dataclass(frozen=True, slots=True)
class Model:
    """Seconds and scores. The defaults are a fit to 41 trainings of 200 to 100,000 parameters on digits.

    A training takes `train_s + seconds_per_mac * MACs * samples * passes`; `noise` is the deviation of the logarithm.
    """

    train_s: float = 1.6
    seconds_per_mac: float = 1.2e-9
    evaluate_s: float = 0.03
    evaluate_seconds_per_mac: float = 1.4e-9
    noise: float = 0.3
    call_s: float = 0.005
    proposal_s: float = 0.012
    top: float = 0.99
    half_parameters: float = 800.0
    half_epochs: float = 0.4
    score_noise: float = 0.01

    def train_duration_s(self, trial: pb.Trial, data: Data, seed: int, *, share: float = 1.0) -> float:
        """Return how long a trial's training, or a share of its updates, takes on one slot."""
        work = trial.network.macs * train_samples(trial.train, data) * share
        return (self.train_s + self.seconds_per_mac * work) * self._factor(seed, "train", trial.number)

    def evaluate_duration_s(self, trial: pb.Trial, data: Data, seed: int) -> float:
        """Return how long a trial's scoring takes on one slot."""
        samples = data.split_sizes[2 if trial.final else 1]
        work = trial.network.macs * samples
        return (self.evaluate_s + self.evaluate_seconds_per_mac * work) * self._factor(seed, "evaluate", trial.number)

    def generate_duration_s(self, proposals: int) -> float:
        """Return how long a call of the generator takes with building and admitting what it proposes."""
        return self.call_s + self.proposal_s * proposals

    def score(self, trial: pb.Trial, data: Data, seed: int, *, share: float = 1.0) -> float:
        """Return an accuracy: better with more parameters and longer training, less and less so, plus noise.

        `share`: of its updates, that are done.
        """
        chance = 1.0 / max(1, data.seen.classes)
        parameters = trial.network.parameters / (trial.network.parameters + self.half_parameters)
        epochs = train_samples(trial.train, data) * share / max(1, data.split_sizes[0])
        trained = epochs / (epochs + self.half_epochs)
        rng = seeded_random(derive_seed(seed, "rehearse score", trial.number))
        value = chance + (self.top - chance) * parameters * trained + rng.gauss(0.0, self.score_noise)
        return min(1.0, max(0.0, value))

    def measure(self, metric: str, accuracy: float, trial: pb.Trial) -> float:
        """Return the value of a metric that evaluation produces; raises Invalid (METRIC_UNMODELLED)."""
        if metric == "accuracy" or metric.startswith(_CLASS):
            return accuracy
        known = {
            "top5_accuracy": min(1.0, accuracy * 1.05),
            "loss": -math.log(max(accuracy, 1e-6)),
            "parameters": float(trial.network.parameters),
            "macs": float(trial.network.macs),
            "size_bytes": 4.0 * trial.network.parameters,
            "latency_p50": trial.network.macs * 1e-6,
            "latency_p99": trial.network.macs * 2e-6,
        }
        if metric not in known:
            raise Invalid("METRIC_UNMODELLED", f"objectives: the model has no {metric}", field="objectives")
        return known[metric]

    def _factor(self, seed: int, kind: str, number: int) -> float:
        rng = seeded_random(derive_seed(seed, "rehearse", kind, number))
        return math.exp(rng.gauss(0.0, self.noise)) if self.noise else 1.0


def share_of(spec: pb.SearchSpec, trial: pb.Trial, steps: int) -> float:
    """Return which part of a trial's training so many updates are; all of it where no rule ends trainings early."""
    if trial.final or not spec.HasField("early_stopping"):
        return 1.0
    return min(1.0, steps / total_steps(trial.train, spec.early_stopping.train_samples))


def train_samples(config: training_pb2.TrainConfig, data: Data) -> float:
    """Return how many samples a training sees."""
    if config.WhichOneof("budget") == "steps":
        return float(config.steps * (config.batch_size or _DEFAULT_BATCH))
    train, validation, _ = data.split_sizes
    samples = train * (config.data_fraction or 1.0) + (validation if config.include_validation else 0)
    return samples * (config.epochs or _DEFAULT_EPOCHS)


def readings(trial: pb.Trial, elements: dict[str, list[str]], seed: int) -> list[measurement_pb2.Measurement]:
    """Return a value for every statistic and proxy that a trial's plan asks for; `elements` names scales by block."""
    asked = [(metrics.proxy(proxy), "", 0) for proxy in trial.instrumentation.proxies]
    no_split, train = measurement_pb2.SPLIT_UNSPECIFIED, measurement_pb2.SPLIT_TRAIN
    for probe in trial.instrumentation.probes:
        scales = probe.tap == training_pb2.TAP_EDGE_SCALE
        for block in probe.elements:
            for element in elements.get(block, []) if scales else [block]:
                asked += [(metrics.reading(probe.tap, statistic), element, 1) for statistic in probe.statistics]
    return [
        measurement_pb2.Measurement(
            metric=metric,
            value=derive_seed(seed, trial.number, element, metric) / 2**63,
            element=element,
            step=step,
            split=train if step else no_split,
        )
        for metric, element, step in asked
    ]
