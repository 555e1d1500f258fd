"""What a variant of the linear kernels costs, fitted to the times of bench.py: what cuda/src/dispatch/cost.rs predicts others with.

costs.py RESULTS prints how much longer the variant that it would choose for a shape takes than the best, when that shape was left out.
"""
import itertools
import json
import math
import pathlib
import sys

import numpy as np


def points(results):
    """By variant: n, k, m, microseconds and the clusters that the card held at a time."""
    found = {}
    for row in results["rows"]:
        for name, time in row["variants"].items():
            kind, *numbers = name.split()
            found.setdefault((kind, *map(int, numbers)), []).append((row["n"], row["k"], row["m"], time, row["resident"][name]))
    return found


def terms(variant, n, k, m, resident):
    """One, the rounds of tiles, and the rounds times the blocks of K of each: what Cost::predict multiplies."""
    kind, tile, cluster, _ = variant
    panels, blocks = -(-n // 128), -(-k // 128)
    if kind == "decode":
        blocks = -(-blocks // cluster)
    else:
        panels = -(-panels // cluster)
    rounds = panels * -(-m // tile) / resident
    halves = 2 if kind == "prefill" and tile == 256 else 1
    rounds = 1 if rounds <= 1 else math.ceil(rounds * halves) / halves
    return [1, rounds, rounds * blocks]


def fit(variant, measured):
    """The coefficients of the terms, none below 0, with the least mean relative error."""
    matrix = np.array([terms(variant, n, k, m, resident) for n, k, m, _, resident in measured], float)
    times = np.array([time for _, _, _, time, _ in measured])
    best = (math.inf, None)
    for kept in (kept for count in (1, 2, 3) for kept in itertools.combinations(range(3), count)):
        # Without the blocks of K it says nothing of other shapes.
        if 2 not in kept or len(kept) > len(measured):
            continue
        found, *_ = np.linalg.lstsq(matrix[:, kept] / times[:, None], np.ones(len(times)), rcond=None)
        coefficients = np.zeros(3)
        coefficients[list(kept)] = found
        error = np.abs(matrix @ coefficients / times - 1).mean()
        if (found >= 0).all() and error < best[0]:
            best = (error, coefficients)
    return best[1]


def costs(results):
    """By variant: the clusters that the card held, and the coefficients."""
    fitted = {variant: (measured[0][4], fit(variant, measured)) for variant, measured in points(results).items()}
    return {variant: cost for variant, cost in fitted.items() if cost[1] is not None}


def choose(fitted, n, k, m, among):
    predicted = {variant: float(np.dot(fitted[variant][1], terms(variant, n, k, m, fitted[variant][0]))) for variant in among if variant in fitted}
    return min(predicted, key=predicted.get) if predicted else None


def main():
    results = json.loads(pathlib.Path(sys.argv[1]).read_text())
    shapes = sorted({(row["n"], row["k"]) for row in results["rows"]})
    losses = []
    for shape in shapes:
        is_shape = lambda row: (row["n"], row["k"]) == shape
        fitted = costs({"rows": [row for row in results["rows"] if not is_shape(row)]})
        for row in filter(is_shape, results["rows"]):
            times = {(kind, *map(int, numbers)): time for name, time in row["variants"].items() for kind, *numbers in [name.split()]}
            chosen = choose(fitted, *shape, row["m"], times)
            losses.append(times[chosen] / min(times.values()) - 1)
            print(f"{shape[0]} x {shape[1]}, {row['m']} tokens: {' x '.join(map(str, chosen[1:]))} {chosen[0]}, {losses[-1]:+.0%}")
    print(f"mean {np.mean(losses):+.1%}, largest {max(losses):+.0%}")


if __name__ == "__main__":
    main()
