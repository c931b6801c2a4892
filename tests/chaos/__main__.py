"""Run a real Airflow and the emulator, and let everything go wrong until enough faults have struck."""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from collections import Counter
from pathlib import Path

from airflow_bitahub.demo.airflow import AirflowError
from tests.chaos.rounds import Report, play
from tests.chaos.world import ChaosError, World


def main() -> int:
    """Play rounds until enough faults have struck. Return 1 if a promise was broken, 2 if no check was possible."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="draw the same faults again (default: a random one)")
    parser.add_argument("--faults", type=int, default=200, help="that strike before it ends (default: %(default)s)")
    parser.add_argument("--per-round", type=int, default=40, help="drawn for each round (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=2, help="DAG runs at once (default: %(default)s)")
    parser.add_argument("--home", type=Path, default=Path(".chaos"), help="emptied first (default: %(default)s)")
    args = parser.parse_args()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    seed = random.randrange(10**6) if args.seed is None else args.seed
    print(f"Seed {seed}. The same again: python -m tests.chaos --seed {seed}", flush=True)
    start, reports = time.monotonic(), list[Report]()
    try:
        with World(args.home, neighbour=True) as world:
            while sum(len(report.acts) for report in reports) < args.faults:
                report = play(world, seed, len(reports) + 1, args.per_round, args.runs)
                print(report, flush=True)
                reports.append(report)
    except (AirflowError, ChaosError) as error:
        print(f"The test cannot go on: {error}. Logs are in {args.home}.")
        return 2
    print(summary(reports))
    broken = sum(len(report.violations) for report in reports)
    print(f"Seed {seed}, {time.monotonic() - start:.0f} s: {broken or 'no'} broken promises.")
    return 1 if broken else 0


def summary(reports: list[Report]) -> str:
    """Return a summary of all rounds."""
    kinds = Counter(act.kind for report in reports for act in report.acts)
    reasons = Counter(orphan.why for report in reports for orphan in report.orphans)
    outcomes = [outcome for report in reports for outcome in report.outcomes.values()]
    lines = [
        f"{len(reports)} rounds, {kinds.total()} faults:",
        *(f"{number:6}  {kind}" for kind, number in kinds.most_common()),
        f"{len(outcomes)} task instances, {sum(len(report.jobs) for report in reports)} jobs; "
        f"{sum(outcome.result is not None for outcome in outcomes)} results compared with their jobs.",
        f"{reasons.total()} orphans, each for a reason that docs/en/concepts.md names:",
        *(f"{number:6}  {why}" for why, number in reasons.most_common()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
