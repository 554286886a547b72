"""What the processes of a run know of each other: who answers, how far each one is, and which of them is
slow.

Every process posts its numbers to jax's coordination service once a second, from a thread. Process 0, where
the service lives, reads
all posts and publishes one view of them: traffic grows only with the number of processes, and all of them
tell the same story.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
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
HURRIED_S = 4.0  # the same once a collective has failed: somebody is gone, it is only to be seen who
FAREWELL_S = 3.0  # for a last post
SLOW = 1.5  # times the median
SLOW_FRAC = 0.1  # of a step: what is less costs nothing
PATIENCE = 5  # posts in a row
PEER_LOST = 75  # the exit code of whoever is left
POSTS, VIEW = "meshwright/hosts/posts", "meshwright/hosts/view"


class Post(NamedTuple):
    """What one process says of itself; the seconds are means of the steps since its last post, `own_s`
    those that were its own.
    """

    count: int = 0  # of its posts: one that stays the same is silence
    step: int = 0
    place: str = ""  # where its main thread stands
    step_s: float = 0.0
    own_s: float = 0.0
    left: bool = False  # not in the loop any more: it may be silent
    why: str = ""  # its own fault, a sentence
    code: int = 0  # its exit code, with `why`
    failed: bool = False  # a collective failed in it, which is another one's fault


class View(NamedTuple):
    """What process 0 makes of the posts: who was lost, if anybody, with the exit code for all others; where
    each one is.
    """

    count: int = 0
    lost: str = ""
    code: int = PEER_LOST
    where: str = ""
    left: bool = True  # process 0 is not in the loop


class Quiet:
    """For how long a number has not changed. While a process is suspended its clock runs on, but nothing
    hangs: that does not count.
    """

    def __init__(self):
        self._seen: Any = None
        self._at, self._quiet_s = time.monotonic(), 0.0

    def seconds(self, number: Any) -> float:
        """Seconds since it was another one; ask at least every 2 s."""
        now = time.monotonic()
        self._quiet_s = self._quiet_s + min(now - self._at, 2.0) if number == self._seen else 0.0
        self._at, self._seen = now, number
        return self._quiet_s


class Hosts:
    """The processes of a run, while they are in the loop together; alone, it does nothing.

    A straggler is looked for in the time that a host spends by itself: reading and placing data, writing
    logs. The length of a step tells nothing, since all devices take it together, whoever is late; nor does
    the call of the step, which may wait for room on the devices. So a device that is slow inside of its
    step is not seen here.
    """

    def __init__(self):
        self._client = client_of_several()
        self.process = jax.process_index()
        self._lock, self._wake, self._ended = Lock(), Event(), False
        self._mine, self._times = Post(), list[tuple[float, float]]()
        self._posts, self._view = dict[int, Post](), View()
        self._quiet, self._quiet_s = {p: Quiet() for p in range(jax.process_count())}, dict[int, float]()
        self._stragglers = Stragglers()

    def __enter__(self) -> "Hosts":
        if self._client is not None:
            peers_under_way.append(self)
            Thread(target=self._talk, daemon=True, name="hosts").start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """After an error the thread talks on until the process ends: it is then that the others are asked
        for.
        """
        if error is None and self._client is not None:
            self._say(left=True)
            self._ended = True
            peers_under_way.remove(self)

    def beat(self, step: int) -> None:
        """The loop has come to this step."""
        with self._lock:
            self._mine = self._mine._replace(step=step)

    def gather(self, step_s: float, *, device_wait_s: float) -> tuple[dict[str, float], str]:
        """A row of the seconds a step that hosts take by themselves, and a sentence that names a straggler,
        or "".

        Both are empty in one process, and everywhere but in process 0. The row holds what was posted last,
        a second or two old: no collective is made, which would wait for the steps under way.

        Args:
            step_s: length of a step
            device_wait_s: of that, in the call of the step and waiting for its metrics
        """
        if self._client is not None:
            with self._lock:
                self._times.append((step_s, step_s - device_wait_s))
        return self._stragglers.row(self._posts), self._stragglers.told()

    def lost(self) -> View | None:
        """Who does not answer or left by a fault of its own, as far as known now; ask at least every 2 s."""
        view, limit_s = self._view, self._limit_s([self._mine])
        quiet_s = self._quiet[0].seconds(view.count) if self.process else 0.0
        if view.lost:
            return view
        silent = quiet_s > limit_s and not view.left
        return (
            View(lost=f"process 0, which coordinates, has not answered for {quiet_s:.0f} s")
            if silent
            else None
        )

    def where(self) -> str:
        """At which step and in which line of code each process is, the fewest together first; "" alone."""
        return self._view.where

    def wait_for_lost(self) -> View | None:
        """Who is gone, after a collective has failed here; None if all still answer."""
        self._say(failed=True)
        return _until(self.lost, HURRIED_S + FAREWELL_S)

    def leave(self, why: str = "", code: int = 0) -> None:
        """Tell the others before this process ends, with a sentence where it is its own fault. Process 0
        stays until they have gone.
        """
        if self._client is not None:
            self._say(left=True, why=why, code=code)
            if self.process == 0:
                _until(self._others_left, HURRIED_S)

    def _others_left(self) -> bool:
        self._wake.set()
        return all(post.left or self._quiet_s[p] > HURRIED_S for p, post in self._posts.items() if p)

    def _limit_s(self, posts: Any) -> float:
        return HURRIED_S if any(post.failed for post in posts) else SILENT_S

    def _say(self, **changes: Any) -> None:
        """Post them now; not waiting for ever, since the service may be gone."""
        with self._lock:
            self._mine = self._mine._replace(**changes)
            wanted = self._mine.count + 2  # the post under way may have been written before
        self._wake.set()
        _until(lambda: self._wake.set() or self._mine.count > wanted, FAREWELL_S)

    def _talk(self) -> None:
        while not self._ended:
            with suppress(
                jax.errors.JaxRuntimeError
            ):  # no answer, or the end of the service: the others' silence says it
                self._client.key_value_set(
                    f"{POSTS}/{self.process}", json.dumps(self._next_post()), allow_overwrite=True
                )
                self._look()
            self._wake.wait(POST_S)
            self._wake.clear()

    def _next_post(self) -> Post:
        with self._lock:
            times, self._times = self._times, []
            if times:
                step_s, own_s = map(statistics.fmean, zip(*times, strict=True))
                self._mine = self._mine._replace(step_s=step_s, own_s=own_s)
            frame = sys._current_frames()[main_thread().ident]
            place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
            self._mine = self._mine._replace(count=self._mine.count + 1, place=place)
            return self._mine

    def _look(self) -> None:
        if self.process:
            found = self._client.key_value_dir_get(VIEW)
            self._view = View(*json.loads(found[0][1])) if found else View()
            return
        found = self._client.key_value_dir_get(POSTS)
        posts = {int(key.rpartition("/")[2]): Post(*json.loads(value)) for key, value in found}
        self._view = self._judged(posts)
        self._stragglers.see(posts)
        self._posts = posts
        self._client.key_value_set(f"{VIEW}/0", json.dumps(self._view), allow_overwrite=True)

    def _judged(self, posts: Mapping[int, Post]) -> View:
        """The first loss stays what was lost: whoever goes after it goes because of it."""
        now = self._view._replace(count=self._mine.count, left=self._mine.left, where=_where(posts))
        quiet_s = self._quiet_s = {p: self._quiet[p].seconds(post.count) for p, post in posts.items()}
        faults = [post for post in posts.values() if post.why]
        silent = [
            p for p, post in posts.items() if quiet_s[p] > self._limit_s(posts.values()) and not post.left
        ]
        if now.lost or not (faults or silent):
            return now
        if faults:
            return now._replace(lost=faults[0].why, code=faults[0].code)
        told = (
            f"process {p} has not answered for {quiet_s[p]:.0f} s (it was at step {posts[p].step})"
            for p in silent
        )
        return now._replace(lost=", ".join(told))


class Stragglers:
    """Finds the hosts that are slower than the others for some posts in a row."""

    def __init__(self):
        self._slow, self._steps, self._told = dict[int, int](), dict[int, int](), list[str]()

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
        """Count who is slow in these posts; only those with new steps count."""
        row = self.row(posts)
        for p, post in posts.items() if row else ():
            excess_s = post.own_s - row["hosts/median_s"]
            slow = post.own_s > SLOW * row["hosts/median_s"] and excess_s > SLOW_FRAC * post.step_s
            if post.step != self._steps.get(p):
                self._slow[p] = self._slow.get(p, 0) + 1 if slow else 0
                if self._slow[p] == PATIENCE:
                    self._told.append(
                        f"process {p} holds the others up: {post.own_s:.3g} s of a step are its own, {excess_s:.3g} s more"
                    )
            self._steps[p] = post.step

    def told(self) -> str:
        """Those found since this was asked last; each is named once for a row of slow posts."""
        told, self._told = self._told, []
        return f"{'; '.join(told)} than the median; look at its data, disk and CPU" if told else ""


def _where(posts: Mapping[int, Post]) -> str:
    groups: dict[str, list[int]] = {}
    for p, post in sorted(posts.items()):
        if not post.left:
            groups.setdefault(f"at step {post.step} in {post.place}", []).append(p)
    named = sorted(groups.items(), key=lambda group: len(group[1]))
    return ", ".join(f"{_named(processes)} {place}" for place, processes in named)


def _named(processes: list[int]) -> str:
    shown = ", ".join(map(str, processes[:8])) + (
        f" and {len(processes) - 8} more" if len(processes) > 8 else ""
    )
    return f"process{'es' if len(processes) > 1 else ''} {shown}"


def _until[T](ask: Callable[[], T], limit_s: float) -> T:
    """The first true answer, or the last one when the time is up."""
    end = time.monotonic() + limit_s
    while not (answer := ask()) and time.monotonic() < end:
        time.sleep(0.05)
    return answer
