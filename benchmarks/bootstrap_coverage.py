"""How often one-sided bounds hold that promise to hold: the percentile, BCa and studentized bootstrap side by side.

Conversations are drawn from distributions whose true figure is known; each method bounds the figure from below and
from above. Printed is the share of draws in which a bound held, and how far the upper bound lay from the value.

    python benchmarks/bootstrap_coverage.py --draws 1000
"""

import argparse
import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from saffron_quantizer.evaluation.bootstrap import Vector, ratio_bounds

RESAMPLES = 2000
NORMAL = NormalDist()

Sums = tuple[Vector, Vector]
Method = Callable[[Vector, Vector, float, np.random.Generator], tuple[float, float]]


def lengths(generator: np.random.Generator, units: int) -> Vector:
    """Tokens of conversations: most short, some long."""
    return np.exp(generator.normal(5, 0.8, units)).round() + 1


def skewed(generator: np.random.Generator, units: int) -> Sums:
    """Divergences with a coefficient of variation of 0.5 between conversations; true mean exp(-2.5 + 0.5^2/2)."""
    tokens = lengths(generator, units)
    return np.exp(generator.normal(-2.5, 0.5, units)) * tokens, tokens


def heavy(generator: np.random.Generator, units: int) -> Sums:
    """Divergences with a coefficient of variation of 1.3; true mean exp(-2.5 + 1/2)."""
    tokens = lengths(generator, units)
    return np.exp(generator.normal(-2.5, 1.0, units)) * tokens, tokens


def likelihoods(generator: np.random.Generator, units: int) -> Sums:
    """Differences of log-likelihoods, symmetric with some outliers; true mean 0.05."""
    tokens = lengths(generator, units)
    noise = generator.standard_t(4, units) * 0.5 / np.sqrt(tokens)
    return (generator.normal(0.05, 0.05, units) + noise) * tokens, tokens


def agreements(generator: np.random.Generator, units: int) -> Sums:
    """Tokens with the same top token; true share 0.9."""
    tokens = lengths(generator, units)
    return generator.binomial(tokens.astype(int), generator.beta(18, 2, units)).astype(np.float64), tokens


SOURCES: dict[str, tuple[Callable[[np.random.Generator, int], Sums], float]] = {
    "divergence": (skewed, math.exp(-2.5 + 0.125)),
    "heavy-tailed divergence": (heavy, math.exp(-2.0)),
    "log-likelihood": (likelihoods, 0.05),
    "agreement": (agreements, 0.9),
}


def replicates(sums: Vector, tokens: Vector, generator: np.random.Generator) -> Vector:
    """The figure of each resample."""
    units = len(sums)
    counts = generator.multinomial(units, np.full(units, 1 / units), size=RESAMPLES).astype(np.float64)
    found: Vector = (counts @ sums) / (counts @ tokens)
    return found


def percentile(sums: Vector, tokens: Vector, level: float, generator: np.random.Generator) -> tuple[float, float]:
    """Quantiles of the resamples."""
    low, high = np.quantile(replicates(sums, tokens, generator), [1 - level, level])
    return float(low), float(high)


def bca(sums: Vector, tokens: Vector, level: float, generator: np.random.Generator) -> tuple[float, float]:
    """Quantiles of the resamples, moved by bias and acceleration (Efron and Tibshirani 1993, equation 14.10)."""
    found = replicates(sums, tokens, generator)
    below = float(np.mean(found < sums.sum() / tokens.sum()))
    bias = NORMAL.inv_cdf(min(max(below, 1 / RESAMPLES), 1 - 1 / RESAMPLES))
    jackknife = (sums.sum() - sums) / (tokens.sum() - tokens)
    apart = jackknife.mean() - jackknife
    acceleration = float((apart**3).sum() / (6 * (apart**2).sum() ** 1.5))

    def moved(level: float) -> float:
        z = bias + NORMAL.inv_cdf(level)
        return NORMAL.cdf(bias + z / (1 - acceleration * z))

    low, high = np.quantile(found, [moved(1 - level), moved(level)])
    return float(low), float(high)


def studentized(sums: Vector, tokens: Vector, level: float, _: np.random.Generator) -> tuple[float, float]:
    """What the evaluation uses."""
    bounds = ratio_bounds(sums, tokens, level=level)
    return bounds.lower, bounds.upper


METHODS: dict[str, Method] = {"percentile": percentile, "BCa": bca, "studentized": studentized}


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=300, help="draws for each row (default: %(default)s)")
    parser.add_argument("--level", type=float, default=0.95, help="what is promised (default: %(default)s)")
    arguments = parser.parse_args()
    error = math.sqrt(arguments.level * (1 - arguments.level) / arguments.draws)
    print(f"promised {arguments.level:.3f}; {arguments.draws} draws, so a share is uncertain by {error:.3f}\n")
    print("| figure | conversations | " + " | ".join(f"{m}: lower, upper holds (distance)" for m in METHODS) + " |")
    print("|---|---|" + "---|" * len(METHODS))
    for figure, (source, true) in SOURCES.items():
        for units in (30, 60, 200):
            cells = row(source, true, units, arguments.level, arguments.draws)
            print(f"| {figure} | {units} | " + " | ".join(cells) + " |", flush=True)


def row(
    source: Callable[[np.random.Generator, int], Sums], true: float, units: int, level: float, draws: int
) -> list[str]:
    """One line of the table."""
    generator = np.random.default_rng(units)
    held = {method: np.zeros(3) for method in METHODS}
    for _ in range(draws):
        sums, tokens = source(generator, units)
        value = sums.sum() / tokens.sum()
        for name, method in METHODS.items():
            lower, upper = method(sums, tokens, level, generator)
            held[name] += (lower <= true, true <= upper, upper - value)
    return [f"{low / draws:.3f}, {high / draws:.3f} ({far / draws:.4f})" for low, high, far in held.values()]


if __name__ == "__main__":
    main()
