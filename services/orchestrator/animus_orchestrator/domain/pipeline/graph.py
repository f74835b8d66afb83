"""The graph of steps: order, cycles, reachability. Edges go from a step to one that depends on it."""

import heapq
from collections.abc import Iterable, Mapping, Sequence


def order(names: Iterable[str], edges: Iterable[tuple[str, str]]) -> list[str]:
    """Topological order, ties by name as UTF-8 bytes. Names on or behind a cycle are left out."""
    waiting = dict.fromkeys(names, 0)
    followers: dict[str, list[str]] = {name: [] for name in waiting}
    for before, after in set(edges):
        followers[before].append(after)
        waiting[after] += 1
    ready = [(name.encode(), name) for name, count in waiting.items() if not count]
    heapq.heapify(ready)
    result = []
    while ready:
        _, name = heapq.heappop(ready)
        result.append(name)
        for after in followers[name]:
            waiting[after] -= 1
            if not waiting[after]:
                heapq.heappush(ready, (after.encode(), after))
    return result


def find_cycle(names: Iterable[str], edges: Iterable[tuple[str, str]]) -> list[str]:
    """One cycle as the names along it, beginning with its first name, or []. Which one does not depend on the order of
    the arguments."""
    edges = set(edges)
    names = set(names)
    left = names - set(order(names, edges))
    if not left:
        return []
    followers: dict[str, list[str]] = {name: [] for name in left}
    for before, after in sorted(edges):
        if before in left and after in left:
            followers[before].append(after)
    # Of what is left some lie only behind a cycle; whoever still has a way on ends in one.
    while dead := [name for name, after in followers.items() if not after]:
        for name in dead:
            del followers[name]
        followers = {name: [one for one in after if one in followers] for name, after in followers.items()}
    name = min(followers)
    seen: dict[str, int] = {}
    walk = []
    while name not in seen:
        seen[name] = len(walk)
        walk.append(name)
        name = followers[name][0]
    cycle = walk[seen[name] :]
    first = cycle.index(min(cycle))
    return cycle[first:] + cycle[:first]


def ancestors(ordered: Sequence[str], edges: Iterable[tuple[str, str]]) -> Mapping[str, frozenset[str]]:
    """All steps before each step, along any number of edges. `ordered` is the whole topological order."""
    direct: dict[str, set[str]] = {name: set() for name in ordered}
    for before, after in edges:
        direct[after].add(before)
    result: dict[str, frozenset[str]] = {}
    for name in ordered:
        result[name] = frozenset(direct[name]).union(*(result[before] for before in direct[name]))
    return result
