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

# Widths in doublings: the exponent is the slope of a line through logarithms.
FACTORS = (1, 2, 4, 8)
# Two layers show what a layer does to the next; more would only take longer.
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
FLAT = 0.25  # what remains of the randomness of narrow models; a matrix without its factor gives 0.5 to 1


class Sizes(NamedTuple):
    """Means by width and step, from step 0 on; [width, step] each.

    Attributes:
        of: Activation -> the mean of |x|.
        learned: Activation -> the mean of |x - x at step 0|; of the logits what the change of the output
        matrix makes of the hidden states.
    """

    of: dict[str, np.ndarray]
    learned: dict[str, np.ndarray]


def report(run: Run) -> tuple[list[str], int]:
    """The tables of both parametrizations and a verdict; 3 when something grows in spite of `mup_base_width`.

    Raises:
        ValueError: the phase cannot be checked.
    """
    if run.objective.batch_type is not TokenBatch:
        raise ValueError(
            f"objective.type={type(run.objective).__name__} does not read rows of tokens; name another phase with --phase"
        )
    rule = run.optimizer.rule
    if not rule.supports_mup:
        raise ValueError(
            f"optimizer.rule.type={type(rule).__name__} does not go with mup_base_width, which is checked here; "
            "choose AdamW or Lion"
        )
    models = family(run.architecture)
    widths = [architecture.width for architecture in models]
    lines, verdicts, code = (
        [f"mean |x| at steps 0 to {STEPS} by width, and how it goes with the width", ""],
        [],
        0,
    )
    # With muP first, then without: the second table shows what the first one prevents.
    for base_width in (widths[0], None):
        sizes = measured(run, models, base_width)
        growth = {name: exponent(learned[:, -1], widths) for name, learned in sizes.learned.items()}
        growing = [name for name, e in growth.items() if e > FLAT]
        lines += [*_table(f"mup_base_width={base_width}", sizes, widths), ""]
        told = ", ".join(f"{name} {e:+.2f}" for name, e in growth.items())
        verdicts.append(
            f"mup_base_width={base_width}: {' and '.join(growing) + ' grow' if growing else 'flat'} (learned ~ width^: {told})"
        )
        code = 3 if base_width and growing else code
    return [*lines, *verdicts], code


def family(architecture: Any) -> list[Any]:
    """The narrowest architecture of the same proportions and head width, and those 2, 4 and 8 times as
    wide; of few layers, untied.
    """
    fields = dict(architecture)
    sizes = {name: fields[name] for name in GROWING if fields.get(name)}
    few = {name: min(most, fields[name]) for name, most in LAYERS.items() if name in fields}
    # The narrowest model with the same proportions.
    part, same = math.gcd(*sizes.values()), {**few, "tied": False}

    def scaled(factor: int) -> Any:
        return type(architecture)(
            **{**dict(architecture), **same, **{name: size // part * factor for name, size in sizes.items()}}
        )

    return [scaled(factor) for factor in FACTORS]


def measured(run: Run, models: Sequence[Any], base_width: int | None) -> Sizes:
    """Means over the first steps of each architecture."""
    found = [first_steps(architecture, run, base_width) for architecture in models]

    def table(name: str, minus: float = 0.0) -> np.ndarray:
        return np.array(
            [[np.abs(seen[name] - minus * history[0][name]).mean() for seen in history] for history in found]
        )

    learned = {name: table(name, minus=1.0) for name in SHOWN} | {"logits": table("learned")}
    return Sizes({name: table(name) for name in SHOWN}, learned)


def exponent(sizes: Any, widths: Sequence[int]) -> float:
    """e, where sizes go as width^e (least squares over logarithms)."""
    return float(np.polyfit(np.log(widths), np.log(np.maximum(sizes, 1e-30)), 1)[0])


def _table(title: str, sizes: Sizes, widths: Sequence[int]) -> list[str]:
    lines = [f"{title:<24}step {''.join(f'{width:>10}' for width in widths)}    ~ width^"]
    for name in SHOWN:
        for step, row in enumerate(sizes.of[name].T):
            cells = "".join(f"{size:>10.4f}" for size in row)
            lines.append(f"  {'' if step else name:<22}{step:>4} {cells}{exponent(row, widths):>12.2f}")
    return lines
