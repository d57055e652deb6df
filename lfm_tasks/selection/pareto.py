"""The Pareto front: what nothing else beats in both, metric and cost."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which of the ``(gain, cost)`` points are on the front: no other has at least the gain at no more cost, and differs.

    Of equal points all are on the front.
    """
    order = sorted(range(len(points)), key=lambda index: (points[index][1], -points[index][0]))
    front, best = [False] * len(points), None
    for index in order:
        gain, cost = points[index]
        if best is None or gain > best[0] or (gain, cost) == best:
            front[index], best = True, (gain, cost)
    return front
