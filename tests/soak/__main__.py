"""Chaos soak: one fault after another on a run of two processes, which a supervisor starts again: `python
-m tests.soak --faults 8`.

Exit code 0 if every fault was survived and the run ended with the same bits as one that nothing happened
to, else 1.
"""

import argparse
import logging
import random
import secrets
import shutil
import tempfile
import time
from pathlib import Path

import jax

from tests.end_to_end.job import copied, differences, phase, rows
from tests.soak.faults import drawn
from tests.soak.life import begin
from tests.soak.scoreboard import Outcome, table
from tests.soak.subject import prepared
from tests.soak.supervisor import LAST_STEPS, STEPS_PER_FAULT, RunLost, carried_on, soak


def main() -> int:
    """Soak; print the scoreboard."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--faults", type=int, required=True, help="how many; 0 compares two undisturbed runs"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=secrets.randbelow(1 << 32),
        help="of the faults and their moments (default: a new one)",
    )
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")  # here arrays are only read
    logging.getLogger("absl").setLevel(logging.ERROR)
    folder, start, draw = (
        Path(tempfile.mkdtemp(prefix="soak-")),
        time.monotonic(),
        random.Random(args.seed),
    )
    print(f"soak of {args.faults} faults, --seed {args.seed}, in {folder}", flush=True)
    job = prepared(folder / "soaked", LAST_STEPS + STEPS_PER_FAULT * args.faults)
    expected = copied(job, folder / "undisturbed")
    carried_on(begin(expected), lambda life: life.process.wait() == 0)
    print(f"the undisturbed run took {time.monotonic() - start:.0f} s", flush=True)
    outcomes, failed = inflicted(job, drawn(args.faults, draw), draw)
    failed = failed or differing(job, expected)
    print("\n".join(table(outcomes)))
    print(
        f"final state after {len(rows(job))} steps: {failed or 'equal to the last bit'}; {time.monotonic() - start:.0f} s in all"
    )
    if failed or not all(outcome.survived for outcome in outcomes):
        print(f"everything is kept in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def inflicted(job: Path, faults: list[str], draw: random.Random) -> tuple[list[Outcome], str]:
    """The outcomes, and why the run could not be carried on, "" if it could."""
    outcomes: list[Outcome] = []
    try:
        for outcome in soak(job, faults, draw):
            outcomes.append(outcome)
            print(f"{len(outcomes)}/{len(faults)} {outcome}", flush=True)
    except RunLost as lost:
        return outcomes, str(lost)
    return outcomes, "" if len(outcomes) == len(faults) and (
        phase(job) / "done.json"
    ).exists() else "it has not ended"


def differing(job: Path, expected: Path) -> str:
    """A sentence on what differs, "" if nothing does."""
    found = differences(job, expected)
    return (
        f"DIFFERS from the undisturbed run in {len(found)} places: {', '.join(found[:5])}"
        if found
        else ""
    )


if __name__ == "__main__":
    raise SystemExit(main())
