"""What starts a soaked run again and again, and inflicts the faults on it."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tests.end_to_end.job import kill, last_step
from tests.soak.faults import FAULTS, LOST, STOPPED
from tests.soak.life import Life, begin
from tests.soak.scoreboard import Outcome
from tests.soak.subject import SAVE_EVERY

MOST_STEPS = 3 * SAVE_EVERY  # between two faults, from 1 on
STEPS_PER_FAULT, LAST_STEPS = (
    22,
    40,
)  # enough for all faults before the run ends: the mean is half of MOST_STEPS, and some are lost
TRIES = 5


class RunLost(Exception):
    """The run could not be carried on."""


def soak(job: Path, faults: Sequence[str], draw: random.Random) -> Iterator[Outcome]:
    """Inflict the faults one after another, then let the run end.

    Raises:
        RunLost: it ended with an exit code that asks for no new start, or makes no step any more.
    """
    life = begin(job)
    for name in faults:
        life = carried_on(life, partial(Life.wait_for_steps, n=draw.randrange(1, MOST_STEPS)))
        life = carried_on(
            life, partial(Life.wait_for_checkpoints, n=2)
        )  # of which one may be damaged
        outcome, life = inflict(name, life, draw)
        yield outcome
    carried_on(life, lambda life: life.process.wait() == 0)


def carried_on(life: Life, reached: Callable[[Life], bool]) -> Life:
    """The life that reaches something: this one, or one that follows it as a supervisor would start it, by
    the exit codes.
    """
    for _ in range(TRIES):
        if reached(life):
            return life
        if life.process.returncode not in (LOST, STOPPED):
            break
        print(f"ended by itself with {life.process.returncode}, started again", flush=True)
        life = begin(life.job)
    raise RunLost(f"ended with {life.process.returncode}; see {life.job / 'lives.log'}")


def inflict(name: str, life: Life, draw: random.Random) -> tuple[Outcome, Life]:
    """One fault on a life that trains; what came of it, and the life that goes on."""
    fault, step, struck = FAULTS[name], last_step(life.job), time.monotonic()
    fault.strike(life, draw)
    if not fault.codes and not life.ended():
        return Outcome(name, step, code=None, survived=True, steps_lost=0), life
    code = life.wait_for_end()
    detect_s, last = time.monotonic() - struck, last_step(life.job)
    if code is None:
        kill(life.process)
    if fault.damage:
        fault.damage(life.job, draw)
    again = begin(life.job)
    if not again.wait_for_steps(1):
        return Outcome(name, step, code, survived=False, detect_s=detect_s), again
    first, at = again.first_row()
    return Outcome(
        name, step, code, code in fault.codes, max(last - first + 1, 0), detect_s, at - again.began
    ), again
