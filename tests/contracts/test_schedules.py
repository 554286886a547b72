"""Laws that every schedule keeps; a new one needs an example here."""

import pytest
from pydantic import TypeAdapter, ValidationError

from data_pipeline.component import components_in, one_of
from trainer.schedules import WSD, Constant, InverseSqrt, WarmupCosine, WarmupLinear

PEAK, STEPS = 0.2, 24
EXAMPLES = {  # with 4 steps of warmup, and the share of the peak that is left at step 24
    "Constant": (Constant(warmup_steps=4), 1.0),
    "WarmupCosine": (WarmupCosine(warmup_steps=4, end_frac=0.1), 0.1),
    "WarmupLinear": (WarmupLinear(warmup_steps=4, end_frac=0.1), 0.1),
    "WSD": (WSD(warmup_steps=4, decay_steps=9, end_frac=0.1, shape="1-sqrt"), 0.1),
    "InverseSqrt": (InverseSqrt(warmup_steps=4), (4 / 24) ** 0.5),
}
EVERY = pytest.mark.parametrize("name", EXAMPLES)


def values(schedule, steps, peak=PEAK) -> list[float]:
    rate = schedule.of(peak, steps)
    return [float(rate(step)) for step in range(steps + 3)]


def test_every_schedule_has_an_example():
    assert set(EXAMPLES) == set(components_in("trainer.schedules"))


@EVERY
def test_it_survives_being_written_down(name):
    adapter, (schedule, _) = TypeAdapter(one_of("trainer.schedules")), EXAMPLES[name]
    assert adapter.validate_python(adapter.dump_python(schedule, mode="json")) == schedule


@EVERY
def test_it_rises_in_a_line_to_its_peak_then_never_rises_and_ends_where_it_says(name):
    schedule, end = EXAMPLES[name]
    found = values(schedule, STEPS)
    assert found[:5] == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.2])
    assert all(x >= y - 1e-9 for x, y in zip(found[3:], found[4:], strict=False))
    assert found[STEPS] == pytest.approx(PEAK * end, rel=1e-5)
    assert min(found[STEPS:]) > 0


@EVERY
def test_it_is_a_share_of_the_peak(name):
    schedule, _ = EXAMPLES[name]
    assert values(schedule, STEPS, peak=1.0) == pytest.approx(
        [value / PEAK for value in values(schedule, STEPS)], rel=1e-5
    )


@EVERY
def test_what_does_not_fit_the_phase_is_told_with_both_numbers(name):
    schedule, _ = EXAMPLES[name]
    assert schedule.problems(STEPS) == []
    (problem,) = schedule.problems(3)
    assert "exceeds steps=3; lower it or raise steps" in problem and problem.startswith(
        "optimizer.schedule.warmup_steps"
    )


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - {"InverseSqrt"}))
def test_without_warmup_the_first_step_has_the_peak_rate(name):
    schedule, _ = EXAMPLES[name]
    assert values(schedule.model_copy(update={"warmup_steps": 0}), STEPS)[0] == pytest.approx(PEAK)


@EVERY
@pytest.mark.parametrize("warmup_steps", [1, 3, 24])
def test_no_step_of_a_warmup_has_rate_0(name, warmup_steps):
    schedule = EXAMPLES[name][0].model_copy(update={"warmup_steps": warmup_steps})
    first = values(schedule, STEPS)[:warmup_steps]
    assert first == pytest.approx([PEAK * i / warmup_steps for i in range(1, warmup_steps + 1)])


def test_each_goes_down_as_its_name_says():
    assert values(WarmupLinear(warmup_steps=4, end_frac=0.0), STEPS)[4:25:5] == pytest.approx(
        [0.2, 0.15, 0.1, 0.05, 0.0]
    )
    assert values(WarmupCosine(warmup_steps=0, end_frac=0.0), 10)[5] == pytest.approx(0.1)
    assert values(InverseSqrt(warmup_steps=4), STEPS)[16] == pytest.approx(0.1)
    stable = WSD(warmup_steps=4, decay_steps=4, end_frac=0.0, shape="1-sqrt")
    assert values(stable, STEPS)[4:21] == pytest.approx([0.2] * 17)
    assert values(stable, STEPS)[20:25] == pytest.approx(
        [0.2 * (1 - (i / 4) ** 0.5) for i in range(5)], abs=1e-7
    )
    line = stable.model_copy(update={"shape": "linear"})
    assert values(line, STEPS)[20:25] == pytest.approx([0.2, 0.15, 0.1, 0.05, 0.0])


def test_a_stable_rate_does_not_know_how_long_the_phase_will_be():
    schedule = WSD(warmup_steps=4, decay_steps=5, end_frac=0.0, shape="linear")
    assert values(schedule, 20)[:16] == values(schedule, 40)[:16]


def test_shapes_that_are_none_are_refused():
    with pytest.raises(ValidationError, match="shape"):
        WSD(warmup_steps=1, decay_steps=1, end_frac=0.0, shape="cosine")
