"""A plan from beginning to end: the Run, its mesh on the target, the compiler or the estimate, the answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from launch.planning.advise import remedies
from launch.planning.analytic import memory_of_plan, outline_of, work_of_plan
from launch.planning.answer import Answer, as_json, lines
from launch.planning.candidates import Setting, present, wiring_for
from launch.planning.compile import DoesNotFit, compile_step, step_of
from launch.planning.network import wiring_of
from launch.planning.search import ranking_json, ranking_lines, search
from launch.planning.topology import Target, axis_sizes, load_devices
from launch.planning.work import work_of
from launch.process.failures import DOES_NOT_FIT, DONE
from model.mesh import make_mesh
from trainer.records.costs import run_flops_per_token
from trainer.run import Run


class Report(NamedTuple):
    """What the verb prints, and its exit code."""

    code: int
    lines: list[str]
    json: Any
    problem: str = ""


class Planner:
    """Answers for phase `name` on `target`; `say` prints what takes long.

    Raises:
        ValueError: the mesh, the batch or a size does not divide, before anything is compiled.
    """

    def __init__(
        self, name: str, run: Run, target: Target, *, hlo: Path | None, say: Callable[[str], None]
    ):
        self.name, self.run, self.target, self.hlo, self.say = name, run, target, hlo, say
        self._by_sizes = target.chip.platform == "gpu"
        if self._by_sizes and hlo is not None:
            raise ValueError(
                f"--hlo {hlo}: nothing is compiled for GPUs; leave it out or choose a TPU"
            )
        # libtpu compiles for TPUs that this machine does not have; for GPUs there is no such compiler.
        devices = () if self._by_sizes else tuple(load_devices(target))
        self.setting = Setting(run, outline_of(run), target, devices)

    def one(self) -> Report:
        """The report on the config's own mesh and execution."""
        sizes = axis_sizes(self.run.mesh, self.target)
        if not self._by_sizes:
            # Before it begins, because the compiler itself prints nothing.
            self.say(
                f"compiling {self.name} for {self.target.describe()}; this takes a minute or more"
            )
        try:
            answer = self.answer(self.run)
        except DoesNotFit as shortage:
            return self._too_large(str(shortage), self._peak_of(shortage))
        if not answer.fits:
            wanted = f"{answer.memory.peak / 1e9:.1f} GB of memory a chip"
            available = f"{self.target.chip.hbm_bytes / 1e9:.1f} GB"
            return self._too_large(f"mesh {sizes} wants {wanted} where {available} are", None)
        return Report(DONE, lines(answer), as_json(answer))

    def search(self, n_finalists: int) -> Report:
        """The fastest settings of mesh, rematerialisation, micro-batches and offload."""
        finalists = search(self.setting, n_finalists, self.answer, self.say)
        best = finalists[0].answer
        ranking = ranking_json(finalists, self.setting, self.name)
        if best is None:
            problem = f"none of the {len(finalists)} settings that were compiled fits"
            problem += "; take more chips"
            refused = {"fits": False, "problem": problem, "ranking": ranking}
            return Report(DOES_NOT_FIT, [], refused, problem)
        output = [*lines(best), *ranking_lines(finalists, self.setting, self.name)]
        return Report(DONE, output, {**as_json(best), "set": ranking[0]["set"], "ranking": ranking})

    def answer(self, run: Run) -> Answer:
        """What `run` costs: compiled, or estimated where there is no compiler. Raises DoesNotFit."""
        return self._estimated(run) if self._by_sizes else self._compiled(run)

    def _compiled(self, run: Run) -> Answer:
        sizes = axis_sizes(run.mesh, self.target)
        mesh = make_mesh(list(self.setting.devices), **sizes)
        step = step_of(run, mesh)
        compiled = compile_step(step)
        if self.hlo is not None:
            # Before anything else can fail: the text helps to find out why.
            self.hlo.write_text(compiled.text)
        # Model FLOPs of one chip: MFU compares them with one chip's peak.
        flops = step.model_flops_per_token * step.tokens / self.target.n_chips
        work, wiring = work_of(compiled.text, sizes), wiring_of(mesh, self.target)
        return Answer(
            self.name,
            wiring,
            sizes,
            work,
            compiled.memory,
            flops,
            step.tokens,
            run.steps,
            compiled.seconds,
        )

    def _estimated(self, run: Run) -> Answer:
        # A search asks about runs with other dials than the setting's own.
        plan = present(self.setting._replace(run=run))
        outline, sizes = self.setting.outline, dict(plan.sizes)
        wiring = wiring_for(self.target, tuple(sizes.values()), ())
        tokens = run.data.batch_size * run.data.row_length
        flops = run_flops_per_token(run, outline.shapes) * tokens / self.target.n_chips
        work, memory = work_of_plan(outline, plan), memory_of_plan(outline, plan)
        return Answer(self.name, wiring, sizes, work, memory, flops, tokens, run.steps, None)

    def _peak_of(self, shortage: DoesNotFit) -> int:
        """The peak behind a shortage, of which the compiler names the temporaries alone."""
        # Arguments are parameters and optimizer state, whose sizes are exact.
        return (
            shortage.needed + memory_of_plan(self.setting.outline, present(self.setting)).arguments
        )

    def _too_large(self, what: str, measured_peak: int | None) -> Report:
        tried = remedies(self.setting, self.name, measured_peak=measured_peak)
        listed = "; or ".join(tried)
        problem = f"{self.name} does not fit {self.target.describe()}: {what}; set {listed}"
        return Report(
            DOES_NOT_FIT, [], {"fits": False, "problem": problem, "remedies": tried}, problem
        )
