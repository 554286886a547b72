"""`plan --search`: settings are pruned by their sizes, the finalists compiled and ranked."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from launch.planning.answer import Answer, as_json
from launch.planning.candidates import Candidate, Setting, applied, candidates, overrides
from launch.planning.compile import DoesNotFit

# At most so many finalists have the same mesh, so that not only rematerialisations are compared.
VARIETY = 3


class Finalist(NamedTuple):
    """A candidate and its answer, which is None where it does not fit or a size does not divide."""

    candidate: Candidate
    answer: Answer | None
    reason: str = ""


def search(
    setting: Setting,
    n_finalists: int,
    answer_of: Callable[[Any], Answer],
    say: Callable[[str], None],
) -> list[Finalist]:
    """The finalists, the fastest first; `answer_of` compiles a Run.

    Raises:
        ValueError: nothing fits.
    """
    ordered = candidates(setting)
    if not ordered:
        remedy = "take more chips, or a smaller data.batch_size"
        dials = "mesh, rematerialisation, micro-batch or offload"
        raise ValueError(f"--search: no {dials} fits {setting.target.describe()}; {remedy}")
    n_left = min(n_finalists, len(ordered))
    say(f"{len(ordered)} settings fit by their sizes; compiling the best {n_left}")
    finalists: list[Finalist] = []
    for candidate in _varied(ordered):
        # A setting that proved too large does not count: the next one is compiled in its stead.
        if sum(each.answer is not None for each in finalists) == n_finalists:
            break
        by_sizes = (
            f"{candidate.estimate.step_s:.3f} s by sizes, {candidate.memory.peak / 1e9:.1f} GB"
        )
        n_answers = sum(each.answer is not None for each in finalists)
        say(f"  {n_left - n_answers} left: {described(candidate)}: {by_sizes}")
        try:
            finalists.append(Finalist(candidate, answer_of(applied(setting.run, candidate.plan))))
        # Estimates are right to some percent, so the compiler may refuse what they say fits.
        except (DoesNotFit, ValueError) as error:
            finalists.append(Finalist(candidate, None, str(error)))
    # Those that do not fit come last.
    return sorted(
        finalists, key=lambda each: each.answer.estimate.step_s if each.answer else float("inf")
    )


def _varied(ordered: list[Candidate]) -> Iterator[Candidate]:
    """The candidates in order, but at most VARIETY of each mesh."""
    seen: dict[tuple[int, ...], int] = {}
    for candidate in ordered:
        mesh = tuple(candidate.plan.sizes.values())
        seen[mesh] = seen.get(mesh, 0) + 1
        if seen[mesh] <= VARIETY:
            yield candidate


def described(candidate: Candidate) -> str:
    """A setting in words: `fsdp=8, tensor=2, remat full, 2 micro-batches, optimizer in host memory`."""
    plan = candidate.plan
    axes = [f"{axis}={size}" for axis, size in plan.sizes.items() if size > 1]
    parts = [
        *(axes or ["1 device"]),
        f"remat {plan.execution.remat.preset}",
        f"{plan.micro_batches} micro-batches",
    ]
    return ", ".join(parts + [f"{name} in host memory" for name in plan.execution.offload])


def ranking_lines(finalists: list[Finalist], setting: Setting, name: str) -> list[str]:
    """The ranking, and the winner's `--set` line."""
    lines = ["", f"{'step':>9}  {'MFU':>6}  {'HBM peak':>9}  setting"]
    for each in finalists:
        if each.answer:
            gb = f"{each.answer.memory.peak / 1e9:.1f} GB"
            numbers = f"{each.answer.estimate.step_s:>7.3f} s  {each.answer.mfu:>6.1%}  {gb:>9}"
            lines.append(f"{numbers}  {described(each.candidate)}")
        else:
            lines.append(
                f"{'–':>9}  {'–':>6}  {'–':>9}  {described(each.candidate)}: {each.reason}"
            )

    # "" if no dial has to change.
    winner = overrides(name, setting.run, finalists[0].candidate.plan)
    best = f"the fastest: {winner}" if winner else "the config's own setting is the fastest"
    return [*lines, "", best]


def ranking_json(finalists: list[Finalist], setting: Setting, name: str) -> list[dict[str, Any]]:
    """A record for each finalist: its `--set` line, the estimates, and the compiler's figures."""
    return [
        {
            "set": overrides(name, setting.run, each.candidate.plan),
            "by_sizes_step_s": each.candidate.estimate.step_s,
            "by_sizes_peak_bytes": each.candidate.memory.peak,
            "reason": each.reason,
            **(as_json(each.answer) if each.answer else {"fits": False}),
        }
        for each in finalists
    ]
