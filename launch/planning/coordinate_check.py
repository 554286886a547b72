"""`meshwright plan CONFIG --coordinate-check`: do activations and their changes keep their size when the
model is made wider?

The check of Yang et al. 2022, appendix D.1: a few real steps at widths x 1, 2, 4, 8, with and without
`mup_base_width`. Under maximal updates nothing grows with the width; under the standard parametrization
what is learned does, and with it the learning rate must fall.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.batch import TokenBatch
from launch.planning.activations import SHOWN, STEPS, first_steps
from trainer.run import Run

# Powers of two lie at equal distances on the logarithmic scale on which the exponent is fitted.
FACTORS = (1, 2, 4, 8)
# Two layers are enough to show what a layer does to the next.
LAYERS = {"layers": 2, "dense_layers": 1}
GROWING = (
    "width",
    "heads",
    "kv_heads",
    "feed_forward_width",
    "expert_width",
    "latent_width",
    "query_latent_width",
)
# Exponents below are noise of narrow models; a matrix that lacks its muP factor gives 0.5 to 1.
FLAT = 0.25


class Sizes(NamedTuple):
    """Means by width and step, from step 0 on; [width, step] each.

    Attributes:
        of: Activation -> the mean of |x|.
        learned: Activation -> the mean of |x - x at step 0|; for the logits, of the product of the hidden
        states with the change of the output matrix.
    """

    of: dict[str, np.ndarray]
    learned: dict[str, np.ndarray]


class Verdict(NamedTuple):
    """The tables of both parametrizations with a line of what grows in each, the same as JSON, and the exit
    code: 3 when something grows in spite of `mup_base_width`.
    """

    lines: list[str]
    json: dict[str, Any]
    code: int


def report(run: Run) -> Verdict:
    """The check of a phase.

    Raises:
        ValueError: the phase cannot be checked.
    """
    # The check makes up its rows, and they are plain rows of tokens.
    if run.objective.batch_type is not TokenBatch:
        name = type(run.objective).__name__
        raise ValueError(
            f"objective.type={name} does not read rows of tokens; name another phase with --phase"
        )
    rule = run.optimizer.rule
    if not rule.supports_mup:
        problem = "does not go with mup_base_width, which is checked here; choose AdamW or Lion"
        raise ValueError(f"optimizer.rule.type={type(rule).__name__} {problem}")
    models = family(run.architecture)
    widths = [architecture.width for architecture in models]
    lines = [f"mean |x| at steps 0 to {STEPS} by width, and how it goes with the width", ""]
    verdicts = []
    checks = []
    code = 0
    # With muP, then without: the second table shows what muP prevents.
    for base_width in (widths[0], None):
        sizes = measured(run, models, base_width)
        # [:, -1]: after the last step the changes are largest.
        growth = {name: exponent(learned[:, -1], widths) for name, learned in sizes.learned.items()}
        growing = [name for name, e in growth.items() if e > FLAT]
        lines += [*_table(f"mup_base_width={base_width}", sizes, widths), ""]
        exponents = ", ".join(f"{name} {e:+.2f}" for name, e in growth.items())
        verdict = f"{' and '.join(growing)} grow" if growing else "flat"
        verdicts.append(f"mup_base_width={base_width}: {verdict} (learned ~ width^: {exponents})")
        check = {"mup_base_width": base_width, "exponents": growth, "growing": growing}
        checks.append({**check, "mean_abs": {name: x.tolist() for name, x in sizes.of.items()}})
        code = 3 if base_width and growing else code

    return Verdict([*lines, *verdicts], {"widths": widths, "checks": checks}, code)


def family(architecture: Any) -> list[Any]:
    """The narrowest architecture of the same proportions and head width, and those 2, 4 and 8 times as
    wide; with few layers, and untied.
    """
    fields = dict(architecture)
    # A size of None or 0 is a component that the architecture does without.
    sizes = {name: fields[name] for name in GROWING if fields.get(name)}
    few = {name: min(most, fields[name]) for name, most in LAYERS.items() if name in fields}

    # Divided by their greatest common divisor, the sizes are as small as their proportions allow.
    unit = math.gcd(*sizes.values())

    def scaled(factor: int) -> Any:
        widths = {name: size // unit * factor for name, size in sizes.items()}
        # Untied, because muP scales the embedding and the output matrix differently.
        return type(architecture)(**{**dict(architecture), **few, "tied": False, **widths})

    return [scaled(factor) for factor in FACTORS]


def measured(run: Run, models: Sequence[Any], base_width: int | None) -> Sizes:
    """Means over the first steps of each architecture."""
    histories = [first_steps(architecture, run, base_width) for architecture in models]

    def table(name: str, minus: float = 0.0) -> np.ndarray:
        """[width, step] means of |x|, or with `minus` 1 of |x - x at step 0|."""
        rows = []
        for history in histories:
            first = minus * history[0][name]
            # Not a root mean square, which a few outliers would dominate.
            rows.append([np.abs(at_step[name] - first).mean() for at_step in history])
        return np.array(rows)

    learned = {name: table(name, minus=1.0) for name in SHOWN} | {"logits": table("learned")}
    return Sizes({name: table(name) for name in SHOWN}, learned)


def exponent(sizes: Any, widths: Sequence[int]) -> float:
    """The exponent e of sizes ~ width^e, by least squares over logarithms."""
    # 1e-30, because a change of exactly 0 has no logarithm.
    return float(np.polyfit(np.log(widths), np.log(np.maximum(sizes, 1e-30)), 1)[0])


def _table(title: str, sizes: Sizes, widths: Sequence[int]) -> list[str]:
    lines = [f"{title:<24}step {''.join(f'{width:>10}' for width in widths)}    ~ width^"]
    for name in SHOWN:
        for step, row in enumerate(sizes.of[name].T):
            cells = "".join(f"{size:>10.4f}" for size in row)
            lines.append(
                f"  {'' if step else name:<22}{step:>4} {cells}{exponent(row, widths):>12.2f}"
            )
    return lines
