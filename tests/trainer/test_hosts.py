"""What is made of the posts: silence, faults and slowness are told apart. How they travel:
tests/end_to_end/test_lost_processes.py.
"""

import pytest

from trainer.cluster import hosts
from trainer.cluster.hosts import HURRIED_S, PEER_LOST, SILENT_S, Hosts, Post, Quiet, Stragglers
from trainer.ending import present_peers


@pytest.fixture
def clock(monkeypatch):
    """Hand on with `clock(seconds)`."""
    now = [100.0]
    monkeypatch.setattr(hosts.time, "monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def view_after(clock, seconds, posts):
    """What process 0 thinks when the same posts stand for so long; it looks every second."""
    here = Hosts()
    here._quiet = {p: Quiet() for p in posts}
    for _ in range(int(seconds) + 1):
        view = here._judged(posts)
        clock(1.0)
    return view


def test_alone_there_is_nobody_to_lose():
    with Hosts() as alone:
        alone.beat(3)
        assert alone.lost() is None and alone.where() == "" and present_peers() is None
        assert alone.gather(1.0, device_wait_s=0.1) == ({}, "")
        alone.leave("a fault", 2)


def test_a_process_whose_posts_stay_the_same_is_lost_after_a_while(clock):
    posts = {0: Post(count=7, step=13), 1: Post(count=5, step=12)}
    assert view_after(clock, SILENT_S - 1, posts).lost == ""
    view = view_after(clock, SILENT_S + 1, {1: posts[1]})
    assert (
        "process 1 has not answered for" in view.lost
        and "step 12" in view.lost
        and view.code == PEER_LOST
    )


def test_where_a_collective_has_failed_silence_is_noticed_sooner(clock):
    posts = {0: Post(count=7, failed=True), 1: Post(count=5)}
    here = Hosts()
    here._quiet = {p: Quiet() for p in posts}
    for count in range(int(HURRIED_S) + 2):
        view = here._judged({0: posts[0]._replace(count=count), 1: posts[1]})
        clock(1.0)
    assert view.lost.startswith("process 1 has not answered") and "process 0" not in view.lost


def test_who_has_left_the_loop_may_be_silent(clock):
    assert view_after(clock, 10 * SILENT_S, {0: Post(left=True), 1: Post(left=True)}).lost == ""


def test_a_fault_is_told_in_its_own_words_with_its_own_code_and_stays_the_first(clock):
    here = Hosts()
    here._quiet = {p: Quiet() for p in range(3)}
    view = here._view = here._judged(
        {0: Post(), 1: Post(left=True, why="process 1 failed: no shard", code=2), 2: Post()}
    )
    assert (view.lost, view.code) == ("process 1 failed: no shard", 2)
    later = here._judged(
        {
            0: Post(),
            1: Post(left=True),
            2: Post(left=True, why="process 2 failed: because of that", code=1),
        }
    )
    assert (later.lost, later.code) == (view.lost, view.code)


def test_time_in_which_this_process_was_suspended_does_not_count(clock):
    quiet = Quiet()
    quiet.seconds(1)
    clock(1.0)
    assert quiet.seconds(1) == 1.0
    clock(3600.0)
    assert quiet.seconds(1) <= 3.0, "the clock ran on while nothing of this process did"
    assert quiet.seconds(2) == 0.0


def test_places_are_told_the_fewest_together_first():
    posts = {p: Post(step=9, place="array.py:640 _value") for p in range(12)} | {
        3: Post(step=8, place="loader.py:5 read")
    }
    told = hosts._where({**posts, 11: Post(left=True)})
    assert (
        told
        == "process 3 at step 8 in loader.py:5 read, processes 0, 1, 2, 4, 5, 6, 7, 8 and 2 more at step 9 in array.py:640 _value"
    )


def feed(stragglers, own_s, *, steps, step_s=1.0):
    """One post a step of every process; what was said."""
    said = []
    for step in steps:
        stragglers.see(
            {p: Post(step=step, step_s=step_s, own_s=seconds) for p, seconds in enumerate(own_s)}
        )
        said += filter(None, [stragglers.new_findings()])
    return said


def test_a_host_that_is_slow_for_some_posts_in_a_row_is_named_once():
    stragglers = Stragglers()
    assert feed(stragglers, (0.1, 0.1, 0.9), steps=range(4)) == []
    assert feed(stragglers, (0.1, 0.1, 0.1), steps=range(4, 6)) == []
    (said,) = feed(stragglers, (0.1, 0.11, 0.9), steps=range(6, 30))
    assert (
        "process 2 holds the others up: 0.9 s of a step are its own, 0.79 s more than the median"
        in said
    )


@pytest.mark.parametrize(
    ("own_s", "step_s"),
    [((0.1, 0.14), 1.0), ((0.001, 0.009), 1.0), ((0.1,), 1.0)],
    ids=["little slower", "costs nothing", "alone"],
)
def test_what_holds_nobody_up_is_not_named(own_s, step_s):
    assert feed(Stragglers(), own_s, steps=range(20), step_s=step_s) == []


def test_the_row_names_the_slowest():
    posts = {p: Post(step_s=1.0, own_s=seconds) for p, seconds in enumerate((0.2, 0.5, 0.3, 0.1))}
    assert Stragglers().row(posts) == {
        "hosts/slowest_s": 0.5,
        "hosts/median_s": 0.2,
        "hosts/slowest": 1.0,
    }
    assert (
        Stragglers().row({0: posts[0]}) == {}
        and Stragglers().row({0: posts[0], 1: Post(left=True)}) == {}
    )
