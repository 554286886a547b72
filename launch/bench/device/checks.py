"""All checks of a device in order, done by the process that holds the device."""

import json
import time
from collections.abc import Iterator
from typing import Any

import jax

from launch.bench.device.attention import attention_checks
from launch.bench.device.experts import expert_checks
from launch.bench.device.models import model_checks
from launch.bench.device.rows import Check, row_of
from launch.bench.device.speed import device_bytes, speed_checks
from launch.bench.device.watch import MARK


def all_checks(*, small: bool) -> Iterator[Check]:
    """Comparisons, then measurements: the speed of a device that computes wrongly is worth nothing."""
    # The order is fixed, because `--from N` counts in it.
    yield from attention_checks(small=small)
    yield from expert_checks(small=small)
    yield from model_checks(small=small)
    yield from speed_checks(small=small)


def work_from(first: int, *, small: bool) -> None:
    """Do the checks from number `first` on and print a marked JSON line before and after each.

    Ends before the next check that is to be `alone`; the process that watches starts another one for it.
    """
    # The list is the same in every child, so that a number names the same check.
    checks = list(all_checks(small=small))
    # Sent by every child, since the first may die before it can tell.
    _send({"device": device_facts()})
    for number, check in enumerate(checks[first:], first):
        if check.alone and number > first:
            return
        _send({"begins": number, "of": len(checks), "name": check.name, "compares": check.compares})
        start = time.perf_counter()
        # Never raises: a check that fails becomes a row.
        row = row_of(check)
        _send(
            {
                "row": row._asdict(),
                "compares": check.compares,
                "seconds": time.perf_counter() - start,
            }
        )
        if check.alone:
            # The process ends, so that the next check finds its memory in one piece.
            return


def device_facts() -> dict[str, Any]:
    """What the figures were measured on."""
    devices = jax.devices()
    return {
        "kind": devices[0].device_kind,
        "platform": devices[0].platform,
        "count": len(devices),
        "bytes": device_bytes(),
        "jax": jax.__version__,
    }


def _send(line: dict[str, Any]) -> None:
    # flush: a crash that follows would lose what is still in the buffer.
    print(MARK + json.dumps(line), flush=True)
