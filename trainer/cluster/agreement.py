"""Processes of one run compare what they were started with, before any of them waits in a collective.

With another learning rate in one process the others would train on what no configuration says; with
another number of steps or evaluations they would wait for a collective that it never comes to.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any

import jax

from trainer.cluster.coordination import client_of_several

MOST_SHOWN = 3  # differences that the sentence names
# Each comparison has keys of its own: the service keeps those of the earlier ones.
_numbers = itertools.count()


def check_alike(facts: Mapping[str, Any], *, remedy: str) -> None:
    """Compare JSON values by name with those of process 0, in all processes; nothing in a run of one.

    All processes must call it in the same order. It goes over jax's key-value store: no device is used and
    nothing is compiled. `remedy` says what to do about a difference.

    Raises:
        ValueError: they differ; in every process with the same sentence, which names process and values.
    """
    client = client_of_several()
    if client is None:
        return
    key = f"meshwright/alike/{next(_numbers)}"
    process = jax.process_index()
    # Sorted, since the order of fields is no difference.
    text = json.dumps(facts, sort_keys=True, default=str)
    client.key_value_set(f"{key}/all/{process}", text)
    client.key_value_set(f"{key}/digest/{process}", _digest(text))
    if process == 0:
        verdict = _first_difference(client, key, text)
        client.key_value_set(f"{key}/verdict", verdict)
    else:
        verdict = wait_for_key(client, f"{key}/verdict")
    if verdict:
        raise ValueError(f"{verdict}; {remedy}")


def _first_difference(client: Any, key: str, own_text: str) -> str:
    """A clause on the first process that differs from this one; "" if all are alike."""
    own_digest = _digest(own_text)
    for process in range(1, jax.process_count()):
        # Digests first: of a thousand processes only the one that differs is read whole.
        if wait_for_key(client, f"{key}/digest/{process}") != own_digest:
            theirs = json.loads(wait_for_key(client, f"{key}/all/{process}"))
            return differences(json.loads(own_text), theirs, process)
    return ""


def differences(own: Mapping[str, Any], theirs: Mapping[str, Any], process: int) -> str:
    """The first differences between process 0 and another one, in words."""
    names = [name for name in own | theirs if own.get(name, ...) != theirs.get(name, ...)]
    clauses = [
        f"process {process} was started with {_shown(name, theirs)}, process 0 with {_shown(name, own)}"
        for name in names[:MOST_SHOWN]
    ]
    more = [f"{len(names) - MOST_SHOWN} more fields differ"] if len(names) > MOST_SHOWN else []
    return ", ".join(clauses + more)


def _shown(name: str, facts: Mapping[str, Any]) -> str:
    return f"{name}={json.dumps(facts[name])}" if name in facts else f"no {name}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def wait_for_key(client: Any, key: str) -> str:
    """The value of a key of the coordination service, once a process has set it.

    It waits in short turns, so that Ctrl-C gets through; if the coordinator dies, jax's heartbeat ends this
    process.
    """
    while True:
        try:
            # 1000 ms: Python handles signals only between two calls into C++.
            return client.blocking_key_value_get(key, 1000)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
