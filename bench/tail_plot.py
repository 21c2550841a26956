"""Draws docs/scheduler.svg: simulated transfers beside equal parts fetched over the same networks.

    pip install matplotlib
    python -m bench.tail_plot docs/scheduler.svg

For people who change the scheduler; matplotlib is no dependency of anything else.
"""

from __future__ import annotations

import sys

from tests.plan.simulation import Model, fixed_split, networks

NETWORKS = 1000
SEED = 2026
POINTS = 60


def ratios() -> tuple[list[float], list[float]]:
    """Returns the times over the ideal of networks without faults, sorted: ours, and those of equal parts."""
    ours, fixed = [], []
    for network in networks(NETWORKS, SEED):
        if not (network.stalls or network.deaths or network.rooms):
            ours.append(Model(network).run().now / network.ideal_s)
            fixed.append(fixed_split(network) / network.ideal_s)
    return sorted(ours), sorted(fixed)


def main() -> None:
    """Draws the plot and prints its figures."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "fastxfer"
    from matplotlib import pyplot

    _, axes = pyplot.subplots(figsize=(7, 3.2))
    for values, label in zip(ratios(), ("fastxfer", "equal parts"), strict=True):
        places = [round(step * (len(values) - 1) / POINTS) for step in range(POINTS + 1)]
        axes.plot(
            [100 * place / (len(values) - 1) for place in places], [values[p] for p in places], label=label
        )
        shown = ", ".join(
            f"{share} % within {values[round(share / 100 * (len(values) - 1))]:.2f}" for share in (50, 90, 99)
        )
        print(f"{label}: {len(values)} networks, {shown}, the worst {values[-1]:.2f}")
    axes.set_yscale("log")
    axes.set_yticks([1, 1.5, 2, 5, 10, 20], ["1", "1.5", "2", "5", "10", "20"])
    axes.set_xlabel("simulated transfers, %")
    axes.set_ylabel("time / ideal")
    axes.legend()
    pyplot.savefig(sys.argv[1], bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()
