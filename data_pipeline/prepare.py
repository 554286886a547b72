"""Prepare: the phase that turns raw input into a tokenizer and token shards, with held-out text apart."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt

from data_pipeline import settings
from data_pipeline.clean.held_out import HeldOutFilter
from data_pipeline.component import FrozenMap, Seed, one_of, parts_of
from data_pipeline.engine.runner import Engine
from data_pipeline.files import (
    read_json,
    remove_partials,
    set_aside_damaged,
    sha256,
    write_json,
)
from data_pipeline.progress import Progress, Say, silent, unseen
from data_pipeline.stages.append import new_text, write_segments
from data_pipeline.stages.chats import KINDS
from data_pipeline.stages.deliver import TokenSettings, deliver
from data_pipeline.stages.docstring_chats import DocstringChats
from data_pipeline.stages.flow import CleanSettings, clean, keys_of, misplaced
from data_pipeline.stages.proof import set_aside_damaged_shards, set_aside_damaged_work
from data_pipeline.stages.text import MODEL, STAGES
from data_pipeline.temporary import temporary_folder
from data_pipeline.tokenizers.trained import TrainedTokenizer

SourceName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
FREE = ("engine",)  # fields that nothing written depends on: another value makes nothing again


class Prepare(BaseModel, frozen=True, extra="forbid", strict=True):
    """Read → annotate → deduplicate → select on two sides → keep them apart → tokenizer → shards of
    documents, chats and pairs.

    Attributes:
        sources: Name → reader; the name is the folder of its shards. Of equal documents that of the source
        named first stays.
        recipe: Rules that every document passes, on both sides, in this order.
        held_out_frac: Of each source's groups (modules, topics, books), set aside before anything else.
        held_out_filter: What keeps the text of the two sides apart.
        tokenizer: Trained on the training side, or a finished one.
        tokenizer_weights: Source → its share of the text that the tokenizer learns from; None = as much as
        there is.
        chats: Questions and preference pairs from docstrings, on both sides; None = none.
        seed: Of the split and of all samples.
        limit_mib: Of each source as read: a keyed sample, to make a job small; None = everything.
        shard_records: About how many records a shard file has.
        engine: Who does the work.
    """

    sources: FrozenMap[SourceName, one_of("data_pipeline.readers")]
    recipe: tuple[one_of("data_pipeline.clean"), ...]
    held_out_frac: float = Field(gt=0, lt=1)
    held_out_filter: HeldOutFilter
    tokenizer: one_of("data_pipeline.tokenizers.tokenizer", "data_pipeline.tokenizers")
    tokenizer_weights: FrozenMap[SourceName, PositiveFloat] | None = None
    chats: DocstringChats | None = None
    seed: Seed
    limit_mib: PositiveFloat | None = None
    shard_records: PositiveInt = 8192
    engine: Engine = Engine()

    def needs_devices(self) -> bool:
        """It needs none: it works with processes of the host, before a cluster is joined."""
        return False

    def fingerprint(self) -> str:
        """16 hex digits of the configuration: what finished data is known by."""
        # Without the VERSIONs of components: finished data stays valid when they are raised.
        return settings.digest(self.model_dump(mode="json", exclude=set(FREE)))

    def problems(self, job: Mapping[str, Any]) -> list[str]:
        """Rules across fields, a sentence each."""
        problems = []
        if not self.sources:
            problems.append("sources is empty; name at least one reader")
        # Chats and pairs are written beside the sources, in folders of these names.
        taken = set(self.sources) & set(KINDS)
        if taken:
            what = "the name is taken by what is made of docstrings"
            problems.append(f"sources.{min(taken)}: {what}; choose another")
        problems += self._unknown_sources()
        return [*problems, *self._without_version(), *misplaced(self.recipe)]

    def shard_names(self) -> dict[str, tuple[str, ...]]:
        """The two sides, each with a folder of shards for every source, and for chats and pairs."""
        names = (*self.sources, *(KINDS if self.chats else ()))
        return {"train": names, "held_out": names}

    def foreseen(self, folder: Path, before: Sequence[str]) -> list[str]:
        """A sentence for each input that is not there: what readers list, and the files of other components;
        `before` names the phases that come first and may make a tokenizer.

        Nothing is written, and nothing read but what the first stages read again.
        """
        problems = []
        for name, reader in self.sources.items():
            try:
                # Elsewhere, because readers put what they fetch there.
                with temporary_folder() as work:
                    reader.parts(name, work=work)
            except (OSError, ValueError) as error:
                problems.append(str(error))
        unreadable = {}
        for path, part in parts_of(self):
            if not path.startswith("sources.") and (reason := unreadable_file(part)):
                # By its reason: what holds a component with a missing file cannot be read either.
                unreadable.setdefault(reason, path)
        problems += [f"{path}: {reason}" for reason, path in unreadable.items()]
        return problems + self._no_tokenizer(before)

    def _no_tokenizer(self, before: Sequence[str]) -> list[str]:
        """A finished tokenizer is there, or is made by a phase before this one."""
        finished = self.tokenizer
        if not isinstance(finished, TrainedTokenizer) or Path(finished.path).is_file():
            return []
        if set(Path(finished.path).parts) & set(before):
            return []
        remedy = "name the tokenizer.model of a finished data phase"
        return [f"tokenizer.path={finished.path} does not exist; {remedy}"]

    def _unknown_sources(self) -> list[str]:
        """A sentence for each name that a field gives and `sources` has not."""
        named = {"chats.source": (self.chats.source,)} if self.chats else {}
        named["tokenizer_weights"] = tuple(self.tokenizer_weights or ())
        named |= {
            f"recipe.{number}.sources": rule.sources for number, rule in enumerate(self.recipe)
        }
        remedy = f"choose of {', '.join(self.sources)}"
        problems = []
        for field, names in named.items():
            for name in names:
                if name not in self.sources:
                    problems.append(f"{field} names {name!r}, which is no source; {remedy}")
        return problems

    def _without_version(self) -> list[str]:
        """A sentence for each component that does not say its VERSION; ours do, a user's may not."""
        components = {f"sources.{name}": reader for name, reader in self.sources.items()}
        components |= {f"recipe.{number}": rule for number, rule in enumerate(self.recipe)}
        components["tokenizer"] = self.tokenizer
        # All are reported at once.
        problems = {
            field: settings.version_problem(component) for field, component in components.items()
        }
        return [f"{field}: {problem}" for field, problem in problems.items() if problem]

    def execute(
        self,
        folder: Path,
        *,
        job_folder: Path,
        say: Say = silent,
        progress: Progress = unseen,
        allow_change: Sequence[str] = (),
    ) -> None:
        """Write everything into `folder`; results of an interrupted run, or of a run with other settings, are
        used where they still apply.

        Raises:
            ValueError: the folder holds finished data of other settings, or a stage cannot be done with
            these.
            OSError: the disk is full or read-only.
        """
        # The launcher has checked this; another caller may not have.
        if problems := self.problems({}):
            raise ValueError("; ".join(problems))
        # Finished with these settings, so there is nothing to do.
        if not self._take_up(folder, allow_change):
            return
        self._prove(folder, say)
        for damage in set_aside_damaged_shards(folder):
            say(f"  {damage}")
        clean_settings = self._clean_settings()
        token_settings = TokenSettings(
            self.tokenizer, self.tokenizer_weights, self.chats, self.seed, self.shard_records
        )
        cleaned = clean(clean_settings, folder, engine=self.engine, progress=progress)
        # What follows is written each time: it is small, and depends on all of the above.
        delivered = deliver(cleaned, token_settings, folder, engine=self.engine, progress=progress)
        write_json(folder / "held_out.json", cleaned.groups)
        write_json(folder / "results.json", delivered.results)
        for line in lines_of(delivered.results):
            say(line)
        done = {
            "fingerprint": self.fingerprint(),
            "settings": self._settings(),
            "tokenizer": delivered.tokenizer,
            "contents": delivered.contents,
            "parts": keys_of(cleaned.read),
            # What relative paths of the sources began at: `append` reads the same files from anywhere.
            "read_from": os.getcwd(),
        }
        # Last, because its presence says that everything else is there.
        write_json(folder / "done.json", done)

    def append(
        self,
        folder: Path,
        *,
        read_from: Path | None = None,
        say: Say = silent,
        progress: Progress = unseen,
    ) -> None:
        """Append what the sources have gained since then to the shards of finished data, which stay as they
        are; all of it is trained on.

        No chats or pairs are made of it, and the tokenizer and the held-out side stay. A run that goes on
        reads it from the mixture stage on that names the new segment.

        Args:
            folder: Of the finished data.
            read_from: Where relative paths of the sources begin; None = where the data was made.
            say: Told what was appended.
            progress: Shown.

        Raises:
            ValueError: the data is not finished or was made with other settings.
        """
        # True means that something is left to do: then there is nothing finished to append to.
        if self._take_up(folder, ()):
            raise ValueError(f"{folder} holds no finished data to append to; run its phase first")
        done = read_json(folder / "done.json")
        # The shards that follow must be of the same ids as those that are there.
        if sha256(folder / MODEL) != done["tokenizer"]:
            problem = f"{folder / MODEL} is not the tokenizer that the shards were written with"
            remedy = "remove done.json beside it and run the phase again, which brings it back"
            raise ValueError(f"{problem}; {remedy}")
        self._prove(folder, say)
        # Before the working directory changes.
        folder = folder.absolute()
        with contextlib.chdir(_start_of_paths(folder, done, read_from)):
            # limit_mib does not apply here: all that is new is wanted.
            texts = new_text(
                self._clean_settings(), folder, done["parts"], engine=self.engine, progress=progress
            )
        made_with = {
            "fingerprint": done["tokenizer"],
            "seed": self.seed,
            "shard_records": self.shard_records,
        }
        added = write_segments(texts, folder, engine=self.engine, progress=progress, **made_with)
        for source in self.sources:
            # The next append leaves them out.
            done["parts"][source] += sorted(
                {text.lineage.name for text in texts if text.source == source}
            )
            say(f"  {source}: {added.get(source, 0):,} documents appended")
        write_json(folder / "done.json", done)

    def _prove(self, folder: Path, say: Say) -> None:
        """Before any stage, because each takes what is there for what it would make."""
        remove_partials(folder)
        for damage in (*set_aside_damaged(folder / STAGES), *set_aside_damaged_work(folder)):
            say(f"  {damage}")

    def _clean_settings(self) -> CleanSettings:
        return CleanSettings(
            self.sources,
            self.recipe,
            self.held_out_frac,
            self.held_out_filter,
            self.seed,
            self.limit_mib,
        )

    def _settings(self) -> dict[str, Any]:
        """Everything that the bytes written depend on, but for the contents of the user's own input."""
        return {
            **self.model_dump(mode="json", exclude=set(FREE)),
            "versions": settings.library_versions(),
        }

    def _take_up(self, folder: Path, allow_change: Sequence[str]) -> bool:
        """Whether there is something to do. If the data was finished with other settings, and `allow_change`
        names them, its done.json is deleted.

        Raises:
            ValueError: the settings are others, and `allow_change` does not name them.
        """
        # Written last and deleted first: data is finished while it exists.
        done = folder / "done.json"
        if not done.exists():
            return True
        # Without the versions of libraries, whose update does not make finished data wrong.
        saved, now = read_json(done)["settings"], self._settings()
        if not settings.changed(
            saved, now, folder, without=("versions",), allow_change=allow_change
        ):
            return False
        # If the process is killed after this, the data counts as begun and not as finished.
        done.unlink()
        return True


def _start_of_paths(folder: Path, done: Mapping[str, Any], read_from: Path | None) -> Path:
    """The folder at which relative paths of the sources begin.

    Raises:
        ValueError: it is gone.
    """
    # Data that is older than the record was read from wherever one stood, as before.
    start = read_from or Path(done.get("read_from", "."))
    if not start.is_dir():
        what = f"relative paths of its sources begin at {start}, which is no folder"
        raise ValueError(f"{folder}: {what}; say where they do now by --from FOLDER")
    return start


def unreadable_file(part: BaseModel) -> str:
    """Why the files that a component names cannot be read, as they will be when its stage begins; "" if they
    can.
    """
    if not isinstance(part, settings.ReadsFiles):
        return ""
    try:
        part.fingerprint()
    except OSError as error:
        missing = error.filename is not None
        return f"{error.filename}: no such file; correct the path" if missing else str(error)
    except ValueError as error:
        return str(error)
    return ""


def lines_of(results: Mapping[str, Any]) -> Iterator[str]:
    """What to say of each source at the end."""
    for name, n_read in results["read"].items():
        kept, held_out = results["kept"][name], results["held_out"][name]
        yield (
            f"  {name}: {kept['documents']:,} of {n_read:,} kept to train on, {kept['bytes'] / 1e6:.1f} MB, "
            f"{kept['tokens']:,} tokens; {held_out['documents']:,} held out"
        )
