"""Pareto ranks that are kept up to date as points come, one after the other."""

import math
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field

Keys = tuple[float, ...]


@dataclass(slots=True)
class Fronts:
    """Points by the front that they are in: front 0 is dominated by nobody, the next by front 0 only, and so on.

    A front holds (first key, number), sorted. Smaller keys are better. A point that comes moves those that it dominates
    one front on, and those the next ones (Li et al. 2017, efficient non-domination level update).
    """

    members: list[list[tuple[float, int]]] = field(default_factory=list)
    front_of: dict[int, int] = field(default_factory=dict)

    def add(self, number: int, keys: dict[int, Keys]) -> None:
        """Take in a point; `keys` has its own and all others'."""
        front = self._lowest(keys[number], keys)
        coming = [number]
        while coming:
            if front == len(self.members):
                self.members.append([])
            there = self.members[front]
            leaving = [other for _, other in there if any(dominates(keys[new], keys[other]) for new in coming)]
            for other in leaving:
                there.remove((keys[other][0], other))
            for new in coming:
                insort(there, (keys[new][0], new))
                self.front_of[new] = front
            coming, front = leaving, front + 1

    def order(self) -> list[int]:
        """Return numbers by front, in a front by the first key, then by number."""
        return [number for front in self.members for _, number in front]

    def rank(self, number: int, keys: dict[int, Keys]) -> int:
        """Return the rank of a number in that order, from 1."""
        front = self.front_of[number]
        before = sum(len(lower) for lower in self.members[:front])
        return before + bisect_left(self.members[front], (keys[number][0], number)) + 1

    def _lowest(self, mine: Keys, keys: dict[int, Keys]) -> int:
        """Return the first front in which nobody dominates a point: who is dominated in one is so in all before it."""
        low, high = 0, len(self.members)
        while low < high:
            middle = (low + high) // 2
            front = self.members[middle]
            nearer = bisect_right(front, (mine[0], math.inf))  # who is worse by the first key dominates nobody here
            if any(dominates(keys[front[place][1]], mine) for place in range(nearer - 1, -1, -1)):
                low = middle + 1
            else:
                high = middle
        return low


def fronts_of(keys: dict[int, Keys]) -> Fronts:
    """Return the fronts of points."""
    fronts = Fronts()
    for number in keys:
        fronts.add(number, keys)
    return fronts


def dominates(better: Keys, worse: Keys) -> bool:
    """Say whether a point is nowhere worse than another, and somewhere better."""
    return better != worse and all(a <= b for a, b in zip(better, worse, strict=True))
