"""Which phase and checkpoint a PATH of the command line means."""

from pathlib import Path

WHERE = (
    "a run (its newest finished phase), a phase such as runs/tiny/dpo, "
    "or a checkpoint such as runs/tiny/dpo/checkpoints/100"
)


def find_phase(path: Path, step: int | None) -> tuple[Path, int | None]:
    """(folder of a phase, step or None for its newest) that `path` means.

    Raises:
        ValueError: there is no such folder, or nothing in it to generate from.
    """
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder; give that of {WHERE}")
    # Resolved, because the names of `.` and of a link tell nothing.
    path = path.resolve()
    if path.parent.name == "checkpoints" and path.name.isdecimal():
        if step not in (None, int(path.name)):
            raise ValueError(f"--step {step} contradicts {path}; leave one of them out")
        return path.parent.parent, int(path.name)
    if (path / "checkpoints").is_dir():
        return path, step
    # Else it is a run, whose trained phases are the folders with checkpoints.
    trained = [folder.parent for folder in path.glob("*/checkpoints")]
    trained.sort(key=lambda folder: folder.stat().st_mtime)
    finished = [folder for folder in trained if (folder / "done.json").exists()]
    if not finished:
        remedy = f"give the folder of {WHERE}"
        if trained:
            remedy = f"name an unfinished one: {', '.join(map(str, trained))}"
        raise ValueError(f"{path}: holds no finished phase with checkpoints; {remedy}")

    # Not the time of the folder, which changes with every file that is added to it.
    return max(finished, key=lambda folder: (folder / "done.json").stat().st_mtime), step
