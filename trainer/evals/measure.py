"""A phase's evaluations: opened once, and run before, during and after training."""

from pathlib import Path

from data_pipeline.files import is_proved, read_json, write_json
from model.api import Params
from trainer.cluster.coordination import first_says, is_first
from trainer.evals.subject import Findings, Subject
from trainer.phase import Phase
from trainer.state import TrainState


class Measures:
    """Runs all of `run.evals` on a state."""

    def __init__(self, phase: Phase):
        run = phase.run
        subject = Subject(
            models=phase.models,
            policies=phase.policies,
            objective=run.objective,
            mesh=phase.mesh,
            folder=phase.folder,
            resumed=phase.resumes(),
            job_folder=phase.job_folder,
            tokenizer=phase.tokenizer,
            context=run.architecture.context,
            first_policy_digest=phase.first_policy_digest(),
            say=phase.say,
            progress=phase.progress,
        )
        self.phase = phase
        # Opened once: the data and its columns stay the same while the policy changes.
        self._measures = [each.open(subject, phase.first_policies) for each in run.evals]

    def __call__(self, state: TrainState) -> Findings:
        """Numbers and texts of the present policy."""
        return self._of(self.phase.evaluated(state))

    def _of(self, params: Params) -> Findings:
        numbers: dict[str, float] = {}
        texts = []
        for measure in self._measures:
            findings = measure(params)
            numbers |= findings.numbers
            texts += findings.texts
        return Findings(numbers, texts)

    def before(self, state: TrainState) -> dict[str, float]:
        """The numbers before the first step; measured once, and read from before.json by a resumed phase."""
        # A resumed phase no longer has the first parameters, so their numbers are saved.
        path = self.phase.folder / "before.json"
        if not self.phase.resumes():
            numbers = self(state).numbers
        elif self._is_usable(path):
            return read_json(path)
        else:
            # Not of `state`, which has been trained.
            _, first_params = self.phase.first_policies()["policy"]
            numbers = self._of(first_params).numbers
        if is_first():
            write_json(path, numbers, sealed=True)
        return numbers

    def _is_usable(self, path: Path) -> bool:
        """Whether process 0 finds the numbers that were written; says so if it does not."""
        usable = False
        if is_first():
            usable = is_proved(path)
            if not usable:
                problem = "is not what was written" if path.exists() else "is missing"
                self.phase.say(f"  {path} {problem}; measured again on the first parameters")
        return bool(first_says(usable)[0])
