"""Prepare: the phase that turns raw input into a tokenizer and token shards, with held-out text apart."""

import json
import shutil
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Field, NonNegativeInt, PositiveFloat, PositiveInt

from data_pipeline import corpus, settings, text_stage, token_stage
from data_pipeline.clean.held_out import HeldOutFilter
from data_pipeline.component import FrozenMap, one_of
from data_pipeline.docstring_chats import DocstringChats
from data_pipeline.files import write_bytes, write_json
from data_pipeline.progress import Progress, Say, silent, unseen
from data_pipeline.shards import Shards
from data_pipeline.tokenizer import SentencePiece, Tokenizer

LATE = ("tokenizer", "shard_records")  # fields that clean text does not depend on
SourceName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Prepare(BaseModel, frozen=True, extra="forbid", strict=True):
    """Read → split by groups → clean → keep the sides apart → tokenizer → shards of documents, chats and pairs.

    Attributes:
        sources: Name → reader; the name is the folder of its shards.
        recipe: Rules that every document passes, on both sides.
        held_out_frac: Of each source's groups (modules, topics, books), set aside before anything else.
        held_out_filter: What keeps the text of the two sides apart.
        tokenizer: Trained on the training side.
        chats: Questions and preference pairs from docstrings, on both sides.
        seed: Of the split and of all samples.
        limit_mib: Of each source as read: a keyed sample, to make a job small; None = everything.
        shard_records: Records in a shard file; the content is the same with any.
    """

    sources: FrozenMap[SourceName, one_of("data_pipeline.readers")]
    recipe: tuple[one_of("data_pipeline.clean"), ...]
    held_out_frac: float = Field(gt=0, lt=1)
    held_out_filter: HeldOutFilter
    tokenizer: SentencePiece
    chats: DocstringChats
    seed: NonNegativeInt
    limit_mib: PositiveFloat | None = None
    shard_records: PositiveInt = 8192

    needs_devices: ClassVar[bool] = False

    def fingerprint(self) -> str:
        """16 hex digits of the configuration: what finished data is known by."""
        return settings.digest(self.model_dump(mode="json"))

    def problems(self, job: Mapping[str, Any]) -> list[str]:
        """Rules across fields, a sentence each."""
        names, found = ", ".join(self.sources), []
        if not self.sources:
            found.append("sources is empty; name at least one reader")
        if taken := set(self.sources) & set(text_stage.CHATS):
            found.append(f"sources.{min(taken)}: the name is taken by what is made of docstrings; choose another")
        if self.chats.source not in self.sources and self.chats.n_chats + self.chats.n_pairs:
            found.append(f"chats.source={self.chats.source!r} is no source; choose one of {names}")
        for number, rule in enumerate(self.recipe):
            unknown = [name for name in rule.sources if name not in self.sources]
            found += [f"recipe.{number}.sources names {name!r}, which is no source; choose of {names}" for name in unknown]
        return found

    def execute(self, folder: Path, *, job_folder: Path, say: Say = silent, progress: Progress = unseen) -> None:
        """Write everything into `folder`; what an interrupted run had finished is used again, done.json comes last.

        Raises:
            ValueError: the folder holds data of other settings, or a stage cannot be done with these. OSError: disk full or read-only.
        """
        if problems := self.problems({}):
            raise ValueError("; ".join(problems))
        if self._is_done(folder):
            return
        if not (folder / "text").exists():
            self._read(folder, progress)
            self._clean(folder, progress)
        settings.check(_report(folder)["settings"], self._settings(), folder, without=LATE)
        shutil.rmtree(folder / "ingested", ignore_errors=True)
        tokenizer = self._tokenizer(folder, progress)
        for side, name in product(text_stage.SIDES, (*self.sources, *text_stage.CHATS)):
            if not (folder / side / name).exists():
                token_stage.write_tokens(
                    folder / side / name,
                    folder / "text" / side / f"{name}.jsonl",
                    tokenizer,
                    amount=_report(folder)["kept"][side][name],
                    chats=None if name in self.sources else self.chats,
                    shard_records=self.shard_records,
                    progress=progress,
                )
        self._finish(folder, tokenizer, say)

    def _settings(self) -> dict[str, Any]:
        """Everything that the bytes written depend on, but for the contents of the user's own input."""
        return {**self.model_dump(mode="json"), "versions": settings.versions()}

    def _is_done(self, folder: Path) -> bool:
        if not (folder / "done.json").exists():
            return False
        saved = json.loads((folder / "done.json").read_bytes())["settings"]
        settings.check(saved, self._settings(), folder, without=("versions",))  # finished data stays good when a library moves on
        return True

    def _read(self, folder: Path, progress: Progress) -> None:
        """Stage 1: each source into a file; a source that was read with these settings before is not read again."""
        now = self._settings()
        for source, reader in self.sources.items():
            ingested = folder / "ingested" / source
            made_with = {"reader": now["sources"][source], **{name: now[name] for name in ("limit_mib", "seed", "versions")}}
            if ingested.exists() and json.loads((ingested / corpus.REPORT).read_bytes())["settings"] != made_with:
                shutil.rmtree(ingested)
            if not ingested.exists():
                corpus.ingest(
                    reader,
                    ingested,
                    source=source,
                    seed=self.seed,
                    limit_mib=self.limit_mib,
                    work=folder / "work",
                    settings=made_with,
                    progress=progress,
                )

    def _clean(self, folder: Path, progress: Progress) -> None:
        """Stage 2: both sides as clean text."""
        text_stage.make_text(
            folder / "text",
            {source: folder / "ingested" / source for source in self.sources},
            recipe=self.recipe,
            held_out_frac=self.held_out_frac,
            held_out_filter=self.held_out_filter,
            chats=self.chats,
            seed=self.seed,
            settings=self._settings(),
            progress=progress,
        )

    def _tokenizer(self, folder: Path, progress: Progress) -> Tokenizer:
        """Stage 3; from here on the folder belongs to all settings."""
        path, claim = folder / "tokenizer.model", folder / "settings.json"
        if path.exists():
            settings.check(json.loads(claim.read_bytes()), self._settings(), folder)
        else:
            write_json(claim, self._settings())
            with progress("  training the tokenizer"):
                texts = (d.text for source in self.sources for d in corpus.read_documents(folder / "text" / "train" / f"{source}.jsonl"))
                self.tokenizer.train(texts, path)
        return Tokenizer(path)

    def _finish(self, folder: Path, tokenizer: Tokenizer, say: Say) -> None:
        """Stage 5, after the shards: results.json, then done.json."""
        write_bytes(folder / "held_out.json", (folder / "text" / "held_out.json").read_bytes())
        names = (*self.sources, *text_stage.CHATS)
        manifests = {side: {name: Shards(folder / side / name).manifest for name in names} for side in text_stage.SIDES}
        results = summary(_report(folder), manifests)
        write_json(folder / "results.json", results)
        for name in names:
            kept, held_out = results["kept"][name], results["held_out"][name]
            say(
                f"  {name}: {kept['documents']:,} of {results['read'][name]:,} kept to train on, {kept['bytes'] / 1e6:.1f} MB, "
                f"{kept['tokens']:,} tokens; {held_out['documents']:,} held out"
            )
        contents = {f"{side}/{name}": manifests[side][name]["content_hash"] for side in text_stage.SIDES for name in names}
        done = {"fingerprint": self.fingerprint(), "settings": self._settings(), "tokenizer": tokenizer.fingerprint, "contents": contents}
        write_json(folder / "done.json", done)


def _report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "text" / corpus.REPORT).read_bytes())


def summary(report: Mapping[str, Any], manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """results.json: by source what was read, dropped (by rule) and kept on each side; read = dropped documents + kept on both sides."""
    amounts = {
        side: {name: {unit: manifest[unit] for unit in ("documents", "bytes", "tokens")} for name, manifest in found.items()}
        for side, found in manifests.items()
    }
    dropped = {source: dict(counts) for source, counts in report["dropped"].items()}
    for kind in text_stage.CHATS:
        n_long = sum(report["kept"][side][kind]["documents"] - amounts[side][kind]["documents"] for side in text_stage.SIDES)
        if n_long:
            dropped.setdefault(kind, {})["over_max_tokens"] = n_long
    read, kept, held_out = report["read"], amounts[text_stage.TRAIN], amounts[text_stage.HELD_OUT]
    return {"read": read, "dropped": dropped, "kept": kept, "held_out": held_out, "examples": report["examples"]}
