"""What the processes of a run know of each other: who answers, how far each one is, and who is slow.

Every process posts its numbers to jax's coordination service once a second, from a thread. Process 0, where
the service lives, reads all posts and publishes one view of them: traffic grows only with the number of
processes, and all processes report the same.
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
SILENT_S = 20.0  # a process that is quiet so long is lost; sooner than jax's heartbeat, which can only abort
# the same once a collective has failed: somebody is gone, it only remains to see who
HURRIED_S = 4.0
FAREWELL_S = 3.0  # for a last post
# of a clock that is read every second; more means that this process was suspended
LONGEST_STEP_S = 2.0
SLOW = 1.5  # times the median
SLOW_FRAC = 0.1  # of a step: what is less costs nothing
PATIENCE = 5  # posts in a row
PEER_LOST = 75  # exit code of the processes that remain
POSTS, VIEW = "meshwright/hosts/posts", "meshwright/hosts/view"  # keys of the coordination service


class Post(NamedTuple):
    """What one process reports of itself; seconds are means over the steps since its last post."""

    count: int = 0  # of its posts: a count that stays the same is silence
    step: int = 0
    place: str = ""  # line of code at which its main thread is
    step_s: float = 0.0
    own_s: float = (
        0.0  # of a step, in which this host worked and the devices did not wait for each other
    )
    left: bool = False  # not in the loop any more: it may be silent
    why: str = ""  # a fault of its own, a sentence
    code: int = 0  # its exit code, with `why`
    failed: bool = False  # a collective failed in it, which is the fault of another process


class View(NamedTuple):
    """What process 0 concludes from the posts."""

    count: int = 0  # of the posts of process 0
    lost: str = ""  # a sentence on the first process that was lost
    code: int = PEER_LOST  # with which all others exit then
    where: str = ""  # step and line of code of every process
    left: bool = True  # process 0 is not in the loop


class Quiet:
    """Measures for how long a number has stayed the same.

    While a process is suspended its clock runs on, but nothing hangs: that time is left out.
    """

    def __init__(self):
        self._number: Any = None
        self._asked_at = time.monotonic()
        self._quiet_s = 0.0

    def seconds(self, number: Any) -> float:
        """Seconds since it was another number; ask at least every 2 s."""
        now = time.monotonic()
        if number == self._number:
            self._quiet_s += min(now - self._asked_at, LONGEST_STEP_S)
        else:
            self._quiet_s = 0.0
        self._asked_at = now
        self._number = number
        return self._quiet_s


class Hosts:
    """The processes of a run while they are in the loop together; it does nothing where there is only one.

    A straggler is looked for in the time that a host spends by itself: reading and placing data, writing
    logs. The length of a step shows nothing, since all devices take it together, whichever host is late; nor
    does the call of the step, which may wait for room on the devices. So a device that is slow inside of its
    step is not seen here. A context manager around the loop.
    """

    def __init__(self):
        self._client = client_of_several()
        self.process = jax.process_index()
        self._lock = Lock()  # of `_own` and `_times`, which the loop writes and the thread reads
        self._wake = Event()
        self._ended = False
        self._own = Post()
        self._times = list[
            tuple[float, float]
        ]()  # (step_s, own_s) of the steps since the last post
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
        # after an error the thread keeps posting until the process ends: that is when `wait_for_lost` and
        # `leave` are called
        if error is None and self._client is not None:
            self._post(left=True)
            self._ended = True
            peers_under_way.remove(self)

    def beat(self, step: int) -> None:
        """Call when the loop comes to a step."""
        with self._lock:
            self._own = self._own._replace(step=step)

    def gather(self, step_s: float, *, device_wait_s: float) -> tuple[dict[str, float], str]:
        """(a metrics row of seconds a step that hosts take by themselves, a sentence on a straggler or "").

        Both are empty in one process, and everywhere but in process 0. The row holds what was posted last,
        a second or two old: a collective would wait for the steps under way.

        Args:
            step_s: length of a step
            device_wait_s: of that, in the call of the step and waiting for its metrics
        """
        if self._client is not None:
            with self._lock:
                self._times.append((step_s, step_s - device_wait_s))
        return self._stragglers.row(self._posts), self._stragglers.new_findings()

    def lost(self) -> View | None:
        """A view that names a lost process, or None while all answer; ask at least every 2 s."""
        view = self._view
        if view.lost:
            return view
        if self.process == 0:
            return None
        # process 0 publishes the view, so that its own silence must be noticed by the others
        quiet_s = self._quiet[0].seconds(view.count)
        if quiet_s <= self._limit_s([self._own]) or view.left:
            return None
        return View(lost=f"process 0, which coordinates, has not answered for {quiet_s:.0f} s")

    def where(self) -> str:
        """Step and line of code of each process, the smallest group first; "" where there is only one."""
        return self._view.where

    def wait_for_lost(self) -> View | None:
        """Who is gone, after a collective has failed here; None if all still answer after some seconds."""
        self._post(failed=True)
        return _until(self.lost, HURRIED_S + FAREWELL_S)

    def leave(self, why: str = "", code: int = 0) -> None:
        """Tell the others that this process ends, with a sentence where it is its own fault.

        Process 0 stays until they have gone: with it the coordination service ends, and they would abort.
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
        """How long a process may be silent, as far as these posts tell."""
        return HURRIED_S if any(post.failed for post in posts) else SILENT_S

    def _post(self, **changes: Any) -> None:
        """Post these fields now; give up after a while, since the service may be gone."""
        with self._lock:
            self._own = self._own._replace(**changes)
            # the next post may be under way with the old fields, the one after it holds the new ones
            wanted = self._own.count + 2

        def is_posted() -> bool:
            self._wake.set()
            return self._own.count > wanted

        _until(is_posted, FAREWELL_S)

    def _talk(self) -> None:
        """The thread: post, read, sleep."""
        key = f"{POSTS}/{self.process}"
        while not self._ended:
            # no answer, or the end of the service: the others' silence shows it
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
        """Read the view; in process 0 read the posts and publish it."""
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
        """The next view; the first process lost stays named: the others go because of it."""
        view = self._view._replace(count=self._own.count, left=self._own.left, where=_where(posts))
        self._quiet_s = {p: self._quiet[p].seconds(post.count) for p, post in posts.items()}
        if view.lost:
            return view
        for post in posts.values():
            if post.why:  # a fault that is known explains more than silence
                return view._replace(lost=post.why, code=post.code)
        limit_s = self._limit_s(posts.values())
        silent = [p for p, post in posts.items() if self._quiet_s[p] > limit_s and not post.left]
        clauses = [
            f"process {p} has not answered for {self._quiet_s[p]:.0f} s (it was at step {posts[p].step})"
            for p in silent
        ]
        return view._replace(lost=", ".join(clauses))


class Stragglers:
    """Finds the hosts that are slower than the others for some posts in a row."""

    def __init__(self):
        self._n_slow = dict[int, int]()  # process -> slow posts in a row
        self._steps = dict[int, int]()  # process -> step of its last post
        self._findings = list[str]()

    def row(self, posts: Mapping[int, Post]) -> dict[str, float]:
        """hosts/slowest_s, hosts/median_s and hosts/slowest (a process); {} with fewer than two."""
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
        """Count who is slow in these posts; a post without a new step counts nothing."""
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
        if self._n_slow[p] == PATIENCE:  # once for a row of slow posts
            seconds = f"{post.own_s:.3g} s of a step are its own, {excess_s:.3g} s more"
            self._findings.append(f"process {p} holds the others up: {seconds}")

    def new_findings(self) -> str:
        """A sentence on the stragglers found since this was asked last, or ""."""
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
    """The first true answer, or the last one when the time is up."""
    end = time.monotonic() + limit_s
    while not (answer := ask()) and time.monotonic() < end:
        time.sleep(0.05)
    return answer
