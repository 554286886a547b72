"""A phase's evaluations: opened once, and run before, during and after training."""

import json

from data_pipeline.files import write_json
from trainer.cluster.coordination import is_first
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
        )
        self.phase = phase
        # Opened once: the data and its columns stay the same while the policy changes.
        self._measures = [each.open(subject, phase.first_policies) for each in run.evals]

    def __call__(self, state: TrainState) -> Findings:
        """Numbers and texts of the present policy."""
        numbers: dict[str, float] = {}
        texts = []
        for measure in self._measures:
            findings = measure(self.phase.evaluated(state))
            numbers |= findings.numbers
            texts += findings.texts
        return Findings(numbers, texts)

    def before(self, state: TrainState) -> dict[str, float]:
        """The numbers before the first step; measured once, and read from before.json by a resumed phase."""
        # A resumed phase no longer has the first parameters, so their numbers are saved.
        path = self.phase.folder / "before.json"
        if self.phase.resumes() and path.exists():
            return json.loads(path.read_text())
        numbers = self(state).numbers
        if is_first():
            write_json(path, numbers)
        return numbers
