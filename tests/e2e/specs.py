"""Specifications so small that a whole search takes seconds, as YAML text that tests change."""

TINY = """
data: { dataset: datasets/digits }
generator: { generator: generators/random }
space: { chain: { minLayers: 1, maxLayers: 2, kernels: [3], channels: [4, 8], pooling: true } }
objectives: [{ metric: accuracy, goal: GOAL_MAXIMIZE }]
budget: { maxTrials: 3 }
train: { epochs: 1, batchSize: 64, compute: { threads: 1 } }
evaluate: { latency: false, threads: 1 }
final: { train: { epochs: 2 } }
seed: 1
"""

NAC = """
data: { dataset: datasets/digits }
generator: { generator: generators/nac, settings: { iterations: 2, weights: inherit } }
space:
  envelope:
    stages:
      - { initialCells: 1, maxCells: 3, construct: true }
      - { initialCells: 1, maxCells: 1, construct: false }
    palette: ["1x1", "3x3", "3x3sep"]
    stem: { width: 6 }
    branchDropout: 0.1
    headDropout: 0.1
objectives: [{ metric: accuracy, goal: GOAL_MAXIMIZE }]
budget: { maxIterations: 3 }
train: { epochs: 1, dataFraction: 0.25, batchSize: 64, compute: { threads: 1 } }
evaluate: { latency: false, threads: 1 }
final:
  scaleUp: { space: { envelope: { stem: { width: 12 } } } }
  train: { epochs: 1, dataFraction: 1 }
seed: 1
"""
