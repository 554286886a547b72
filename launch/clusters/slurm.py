"""`--on slurm`: an sbatch script that runs the same command on every task, saves before the end of its time
and queues itself again.
"""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from launch.job.overrides import override
from launch.job.problems import Problems, explain_all
from launch.process.children import own_command, own_environment

TEMPLATE = """\
#!/usr/bin/env bash
{directives}

set -uo pipefail
cd {folder} || exit 2
{setup}
# The first node coordinates; the port follows from the job, so that two jobs on one node do not meet.
first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export JAX_COORDINATOR_PORT=$((12000 + SLURM_JOB_ID % 20000))
export JAX_COORDINATOR_ADDRESS="$first_node:$JAX_COORDINATOR_PORT"
export PYTHONUNBUFFERED=1

# `scancel` also signals this script; the signal before the end of the time reaches only the tasks.
# A cancelled job must not queue itself again.
cancelled=0
trap 'cancelled=1' TERM

# The tasks save together and end within seconds of each other; 120 s after the first one the rest is ended.
srun --kill-on-bad-exit=0 --wait=120 {command}
code=$?

# 143: saved on SIGTERM. 75: a peer was lost or hung; srun returns the highest code, so it may be the lost
# one's own 134 or 137. Every other code ends the job: done, Ctrl-C, a user error, does not fit, diverged.
restarts=${{SLURM_RESTART_COUNT:-0}}
if [[ $cancelled == 0 && $code =~ ^(75|134|137|143)$ ]]; then
  if [[ $restarts -lt {max_restarts} ]]; then
    echo "meshwright: exit code $code, queued again (restart $((restarts + 1)) of {max_restarts})"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
  fi
  echo "meshwright: exit code $code after {max_restarts} restarts; submit it again to go on (nothing is lost)"
fi
exit "$code"
"""


class Slurm(BaseModel, frozen=True, extra="forbid", strict=True):
    """Resources of the SLURM job; one task is one process of the run."""

    # The defaults ask for one process on one node.
    nodes: Annotated[int, Field(ge=1)] = 1
    tasks_per_node: Annotated[int, Field(ge=1)] = 1
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    cpus_per_task: Annotated[int, Field(ge=1)] | None = None
    memory: str | None = None  # as sbatch writes it: 64G
    # [days-]hours:minutes:seconds. Most clusters allow a day.
    time: str = "24:00:00"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    # SIGTERM comes this long before the time is up, so that the run can save.
    save_s: Annotated[int, Field(ge=10)] = 120
    # 20 restarts of a day each: a run that needs more is submitted again by a person.
    max_restarts: Annotated[int, Field(ge=0)] = 20
    setup: str = ""  # shell lines before the run, e.g. "module load cuda"

    def script(self, command: Sequence[str], *, name: str, run_dir: Path, folder: Path) -> str:
        """The sbatch script that runs `command` from `folder`."""
        return TEMPLATE.format(
            directives="\n".join(
                f"#SBATCH --{option}" for option in self._directives(name, run_dir)
            ),
            folder=shlex.quote(str(folder)),
            setup=f"{self.setup}\n" if self.setup else "",
            command=shlex.join(command),
            max_restarts=self.max_restarts,
        )

    def _directives(self, name: str, run_dir: Path) -> list[str]:
        # Those that are None are left to the cluster's defaults.
        optional = {
            "gpus-per-node": self.gpus_per_node or None,
            "cpus-per-task": self.cpus_per_task,
            "mem": self.memory,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
        }
        return [
            f"job-name={name}",
            f"nodes={self.nodes}",
            f"ntasks-per-node={self.tasks_per_node}",
            *(f"{option}={value}" for option, value in optional.items() if value is not None),
            f"time={self.time}",
            # Without "B:" the signal goes to the tasks and not to the batch script.
            f"signal=TERM@{self.save_s}",
            "requeue",
            # %j is the job's id.
            f"output={run_dir}/logs/slurm-%j.log",
            # A requeued job keeps its id, so without this it would overwrite its own log.
            "open-mode=append",
        ]


def slurm_from(settings: Sequence[str]) -> Slurm:
    """The component that `--cluster key=value` settings describe. Raises Problems with all that is wrong."""
    tree = {"slurm": {}}

    # Problems are collected, as `--set` does, so that all of them are reported at once.
    problems = override(tree, [f"slurm.{setting}" for setting in settings])
    try:
        slurm = Slurm.model_validate(tree["slurm"])
    except ValidationError as error:
        problems += explain_all(error, "slurm", tree["slurm"], Slurm)
    if problems:
        # The user typed `nodes=4`; the prefix "slurm." was added above.
        raise Problems("--cluster", [problem.replace("slurm.", "") for problem in problems])
    return slurm


def submit(slurm: Slurm, command: Sequence[str], *, name: str, run_dir: Path, dry_run: bool) -> int:
    """The verb `run` as a batch job: print the script, or hand it to sbatch."""
    variables = [f"{key}={value}" for key, value in own_environment().items()]
    argv = own_command(command)
    script = slurm.script(
        ["env", *variables, *argv] if variables else argv,
        name=f"meshwright-{name}",
        # Absolute, since SLURM resolves the path of its log before the script's `cd`.
        run_dir=run_dir.absolute(),
        folder=Path.cwd(),
    )
    if dry_run:
        sys.stdout.write(script)
        return 0
    if shutil.which("sbatch") is None:
        remedy = "submit from a login node, or add --dry-run and copy the script"
        raise ValueError(f"--on slurm: there is no sbatch on this machine; {remedy}")
    # SLURM does not make the folder of its log, and without it the job fails silently.
    (run_dir / "logs").mkdir(parents=True, exist_ok=True)
    # sbatch reads a script from standard input when it has no argument.
    done = subprocess.run(["sbatch"], input=script, text=True, capture_output=True)
    if done.returncode:
        # sbatch may write several lines; our errors are one.
        reason = " ".join(done.stderr.split())
        raise ValueError(
            f"--on slurm: sbatch refused the job, {reason}; change it with --cluster key=value"
        )
    print(f"{done.stdout.strip()}; its output goes to {run_dir / 'logs'}")

    return 0
