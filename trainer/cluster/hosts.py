"""What the processes of a run know of each other: who answers, which step each is at, and who is slow.

A thread of every process posts its numbers to jax's coordination service once a second. Process 0, which runs
the service, reads all posts and publishes one view of them: traffic is linear in the number of processes, and
all of them report the same.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock, Thread, main_thread
from types import TracebackType
from typing import Any, NamedTuple

import jax

from trainer.cluster.coordination import client_of_several
from trainer.ending import peers_under_way

POST_S = 1.0
# A process that posts nothing for so long is lost. Shorter than the timeout of jax's own heartbeat, which can
# only abort.
SILENT_S = 20.0
# The same after a collective has failed: a process is surely gone, and it only remains to see which.
HURRIED_S = 4.0
FAREWELL_S = 3.0  # longest wait for a last post
# most of the time between two looks at a post that counts as silence: after more this process was suspended
LONGEST_STEP_S = 2.0
SLOW = 1.5  # a straggler takes this many times the median
SLOW_FRAC = 0.1  # and exceeds the median by this share of a step: less does not matter
PATIENCE = 5  # in so many posts in a row
PEER_LOST = 75  # exit code of the processes that remain
POSTS, VIEW = "meshwright/hosts/posts", "meshwright/hosts/view"  # keys of the coordination service


class Post(NamedTuple):
    """What one process reports of itself; seconds are means over the steps since its last post."""

    count: int = 0  # number of this post: while it stays the same the process is silent
    step: int = 0
    place: str = ""  # file, line and function that its main thread executes
    step_s: float = 0.0  # length of a step
    own_s: float = (
        0.0  # part of a step in which the host itself worked, without waiting for devices
    )
    left: bool = False  # it has left the loop, and may be silent
    why: str = ""  # a fault of its own, in a sentence
    code: int = 0  # its exit code, with `why`
    failed: bool = False  # a collective failed in it, which is another process's fault


class View(NamedTuple):
    """What process 0 concludes from the posts."""

    count: int = 0  # the number of process 0's own post
    lost: str = ""  # a sentence on the first process that was lost
    code: int = PEER_LOST  # exit code of all other processes then
    where: str = ""  # step and line of code of every process
    left: bool = True  # whether process 0 has left the loop


class Quiet:
    """Measures for how long a number has stayed the same.

    The clock runs on while this process is suspended, although nothing hangs: that time is left out.
    """

    def __init__(self):
        self._number: Any = None
        self._asked_at = time.monotonic()
        self._quiet_s = 0.0

    def seconds(self, number: Any) -> float:
        """Seconds since the number last changed; must be called at least every 2 s."""
        now = time.monotonic()
        if number == self._number:
            self._quiet_s += min(now - self._asked_at, LONGEST_STEP_S)
        else:
            self._quiet_s = 0.0
        self._asked_at = now
        self._number = number
        return self._quiet_s


class Hosts:
    """The processes of a run while they are in the training loop; does nothing in a run of one process.

    Stragglers are found by the time that a host spends on its own work: reading and placing data, writing
    logs. The length of a step shows nothing, since all devices wait for the slowest; nor does the call of the
    step, which may wait for the devices. So a device that computes slowly is not found. A context manager
    around the loop.
    """

    def __init__(self):
        self._client = client_of_several()
        self.process = jax.process_index()
        self._lock = Lock()  # for `_own` and `_times`, which the loop and the thread both use
        self._wake = Event()
        self._ended = False
        self._own = Post()
        # (step_s, own_s) of the steps since the last post
        self._times = list[tuple[float, float]]()
        self._posts = dict[int, Post]()
        self._view = View()
        self._quiet = {p: Quiet() for p in range(jax.process_count())}
        self._quiet_s = dict[int, float]()
        self._stragglers = Stragglers()

    def __enter__(self) -> "Hosts":
        if self._client is not None:
            peers_under_way.append(self)
            Thread(target=self._talk, daemon=True, name="hosts").start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error the thread keeps posting until the process ends: the error's handler still calls
        # `wait_for_lost` and `leave`.
        if error is None and self._client is not None:
            self._post(left=True)
            self._ended = True
            peers_under_way.remove(self)

    def beat(self, step: int) -> None:
        """Call when the loop starts a step."""
        with self._lock:
            self._own = self._own._replace(step=step)

    def gather(self, step_s: float, *, device_wait_s: float) -> tuple[dict[str, float], str]:
        """(a metrics row on the hosts' own time per step, a sentence on new stragglers or "").

        Both are empty in a run of one process, and in all processes but process 0. The row is from the last
        posts, a second or two old: a collective would wait for the steps that are running.

        Args:
            step_s: Length of a step.
            device_wait_s: How much of it passed in the call of the step and waiting for its metrics.
        """
        if self._client is not None:
            with self._lock:
                self._times.append((step_s, step_s - device_wait_s))
        return self._stragglers.row(self._posts), self._stragglers.new_findings()

    def lost(self) -> View | None:
        """A view that names a lost process, or None while all answer; must be called at least every 2 s."""
        view = self._view
        if view.lost:
            return view
        if self.process == 0:
            return None
        # Process 0 publishes the view, so the others must notice its silence themselves.
        quiet_s = self._quiet[0].seconds(view.count)
        if quiet_s <= self._limit_s([self._own]) or view.left:
            return None
        return View(lost=f"process 0, which coordinates, has not answered for {quiet_s:.0f} s")

    def where(self) -> str:
        """Step and line of code of each process, the smallest group first; "" in a run of one process."""
        return self._view.where

    def wait_for_lost(self) -> View | None:
        """Call after a collective has failed: a view that names the lost process; None if all still answer
        after some seconds.
        """
        self._post(failed=True)
        return _until(self.lost, HURRIED_S + FAREWELL_S)

    def leave(self, why: str = "", code: int = 0) -> None:
        """Tell the others that this process ends, and why if the fault is its own.

        Process 0 waits until the others have left: they abort when the coordination service ends with it.
        """
        if self._client is not None:
            self._post(left=True, why=why, code=code)
            if self.process == 0:
                _until(self._others_left, HURRIED_S)

    def _others_left(self) -> bool:
        self._wake.set()
        others = [(p, post) for p, post in self._posts.items() if p != 0]
        return all(post.left or self._quiet_s[p] > HURRIED_S for p, post in others)

    def _limit_s(self, posts: Iterable[Post]) -> float:
        """How long a process may be silent: less once any of these posts reports a failed collective."""
        return HURRIED_S if any(post.failed for post in posts) else SILENT_S

    def _post(self, **changes: Any) -> None:
        """Post these fields now; give up after FAREWELL_S, since the service may be gone."""
        with self._lock:
            self._own = self._own._replace(**changes)
            # A post with the old fields may be on its way; after two further ones the new fields have surely
            # arrived.
            wanted = self._own.count + 2

        def is_posted() -> bool:
            self._wake.set()
            return self._own.count > wanted

        _until(is_posted, FAREWELL_S)

    def _talk(self) -> None:
        """The loop of the thread: post, read, sleep."""
        key = f"{POSTS}/{self.process}"
        while not self._ended:
            # Ignored when the service does not answer or has ended: the silence of process 0 shows it.
            with suppress(jax.errors.JaxRuntimeError):
                self._client.key_value_set(key, json.dumps(self._next_post()), allow_overwrite=True)
                self._read()
            self._wake.wait(POST_S)
            self._wake.clear()

    def _next_post(self) -> Post:
        with self._lock:
            times, self._times = self._times, []
            if times:
                step_s, own_s = map(statistics.fmean, zip(*times, strict=True))
                self._own = self._own._replace(step_s=step_s, own_s=own_s)
            frame = sys._current_frames()[main_thread().ident]
            place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
            self._own = self._own._replace(count=self._own.count + 1, place=place)
            return self._own

    def _read(self) -> None:
        """Read the view; in process 0, read the posts and publish the view."""
        if self.process != 0:
            published = self._client.key_value_dir_get(VIEW)
            self._view = View(*json.loads(published[0][1])) if published else View()
            return
        entries = self._client.key_value_dir_get(POSTS)
        posts = {int(key.rpartition("/")[2]): Post(*json.loads(value)) for key, value in entries}
        self._view = self._judged(posts)
        self._stragglers.see(posts)
        self._posts = posts
        self._client.key_value_set(f"{VIEW}/0", json.dumps(self._view), allow_overwrite=True)

    def _judged(self, posts: Mapping[int, Post]) -> View:
        """The view after these posts. A lost process stays named, since others end because of it."""
        view = self._view._replace(count=self._own.count, left=self._own.left, where=_where(posts))
        self._quiet_s = {p: self._quiet[p].seconds(post.count) for p, post in posts.items()}
        if view.lost:
            return view
        for post in posts.values():
            if post.why:  # a reported fault explains more than silence
                return view._replace(lost=post.why, code=post.code)
        limit_s = self._limit_s(posts.values())
        silent = [p for p, post in posts.items() if self._quiet_s[p] > limit_s and not post.left]
        clauses = [
            f"process {p} has not answered for {self._quiet_s[p]:.0f} s (it was at step {posts[p].step})"
            for p in silent
        ]
        return view._replace(lost=", ".join(clauses))


class Stragglers:
    """Finds hosts that are slower than the others in PATIENCE posts in a row."""

    def __init__(self):
        self._n_slow = dict[int, int]()  # process -> slow posts in a row
        self._steps = dict[int, int]()  # process -> step of its last post
        self._findings = list[str]()

    def row(self, posts: Mapping[int, Post]) -> dict[str, float]:
        """hosts/slowest_s, hosts/median_s and hosts/slowest (a process); {} with fewer than two processes."""
        own_s = {p: post.own_s for p, post in posts.items() if post.step_s and not post.left}
        if len(own_s) < 2:
            return {}
        slowest = max(own_s, key=own_s.__getitem__)
        return {
            "hosts/slowest_s": own_s[slowest],
            "hosts/median_s": statistics.median_low(own_s.values()),
            "hosts/slowest": float(slowest),
        }

    def see(self, posts: Mapping[int, Post]) -> None:
        """Count the slow hosts in these posts; posts without a new step are ignored."""
        row = self.row(posts)
        if not row:
            return
        median_s = row["hosts/median_s"]
        for p, post in posts.items():
            if post.step != self._steps.get(p):
                self._count(p, post, median_s)
            self._steps[p] = post.step

    def _count(self, p: int, post: Post, median_s: float) -> None:
        excess_s = post.own_s - median_s
        is_slow = post.own_s > SLOW * median_s and excess_s > SLOW_FRAC * post.step_s
        self._n_slow[p] = self._n_slow.get(p, 0) + 1 if is_slow else 0
        if self._n_slow[p] == PATIENCE:  # not `>=`: reported once in each run of slow posts
            seconds = f"{post.own_s:.3g} s of a step are its own, {excess_s:.3g} s more"
            self._findings.append(f"process {p} holds the others up: {seconds}")

    def new_findings(self) -> str:
        """A sentence on the stragglers found since the last call, or ""."""
        findings, self._findings = self._findings, []
        return (
            f"{'; '.join(findings)} than the median; look at its data, disk and CPU"
            if findings
            else ""
        )


def _where(posts: Mapping[int, Post]) -> str:
    groups: dict[str, list[int]] = {}
    for p, post in sorted(posts.items()):
        if not post.left:
            groups.setdefault(f"at step {post.step} in {post.place}", []).append(p)
    smallest_first = sorted(groups.items(), key=lambda group: len(group[1]))
    return ", ".join(f"{_named(processes)} {place}" for place, processes in smallest_first)


def _named(processes: list[int]) -> str:
    names = ", ".join(map(str, processes[:8]))
    more = f" and {len(processes) - 8} more" if len(processes) > 8 else ""
    return f"process{'es' if len(processes) > 1 else ''} {names}{more}"


def _until[T](ask: Callable[[], T], limit_s: float) -> T:
    """Call `ask` until its answer is true or `limit_s` have passed; returns the last answer."""
    end = time.monotonic() + limit_s
    while not (answer := ask()) and time.monotonic() < end:
        time.sleep(0.05)
    return answer
