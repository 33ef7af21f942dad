"""Specifications of small searches, as people write them."""

from collections.abc import Sequence


def chains(*, trials: int, layers: int, channels: Sequence[int], more: str = "") -> str:
    """Return a random search of small chains on digits; `more` are further lines."""
    return f"""
data: {{ dataset: datasets/digits }}
generator: {{ generator: generators/random }}
space: {{ chain: {{ minLayers: 1, maxLayers: {layers}, kernels: [1, 3], channels: {list(channels)}, pooling: true }} }}
objectives: [{{ metric: accuracy, goal: GOAL_MAXIMIZE }}]
budget: {{ maxTrials: {trials} }}
train: {{ epochs: 1 }}
{more}
"""
