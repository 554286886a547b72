"""TensorBoard's event file of a phase, by TensorBoard's own writer: no TensorFlow is needed."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from data_pipeline.settings import flat

# TensorBoard sorts groups of curves by name and opens the first ones: what a person looks at first has to
# come first, and not `checkpoint/`. A group that is not named here is an objective's own.
PLACES = {
    "loss": 1,
    "eval": 2,
    "train": 3,
    "optimizer": 5,
    "throughput": 6,
    "time": 6,
    "norms": 7,
    "tokens": 7,
    "epochs": 7,
    "guard": 8,
    "goodput": 8,
    "hosts": 8,
    "memory": 8,
    "checkpoint": 9,
    "data": 9,
}
OWN_PLACE = 4


def tag_of(name: str) -> str:
    """The name of a metric in TensorBoard: `1 loss/train` for `loss/train`."""
    group = name.split("/")[0]
    return f"{PLACES.get(group, OWN_PLACE)} {name}"


def _new_file(folder: Path) -> EventFileWriter:
    # Readers take files in the order of their names: the second, then a counter, where ".10" comes before
    # ".9". A second has one file therefore; not so where the clock stands still.
    for _ in range(30):
        if not any(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
            break
        time.sleep(0.05)
    return EventFileWriter(str(folder))


class EventFile:
    """A new event file in `folder`; rows of steps from `first_step` on in older files there are hidden."""

    def __init__(self, folder: Path, first_step: int):
        is_resumed = any(folder.glob("events.out.tfevents.*"))
        self.folder = folder
        self._writer = _new_file(folder)
        if is_resumed:
            self.back_to(first_step - 1)

    def back_to(self, step: int) -> None:
        """Hide the rows of all later steps from readers."""
        # TensorBoard's own mechanism for restarts, as event files are only appended to: on a START event
        # readers drop all rows from its step on.
        start = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(step=step + 1, wall_time=time.time(), session_log=start))
        self._writer.flush()

    def write(self, step: int, now: float, row: dict[str, float]) -> None:
        """Record numbers by name, at `now` (Unix seconds)."""
        values = [
            Summary.Value(tag=tag_of(name), simple_value=value) for name, value in row.items()
        ]
        self._writer.add_event(Event(step=step, wall_time=now, summary=Summary(value=values)))

    def configuration(self, settings: Mapping[str, Any]) -> None:
        """Record the fields of a run as text and as hyperparameters, dotted."""
        self.text(0, "configuration", json.dumps(settings, indent=1, ensure_ascii=False), "")
        # the plugin takes numbers, booleans and text alone
        plain = {
            field: value if isinstance(value, bool | int | float | str) else str(value)
            for field, value in flat(settings).items()
        }
        summary = hparams_pb(plain, trial_id=self.folder.name)
        self._writer.add_event(Event(step=0, wall_time=time.time(), summary=summary))

    def text(self, step: int, name: str, text: str, prompt: str) -> None:
        """Record a text, to be shown verbatim, below its prompt."""
        text = f"{prompt}\n\n{text}" if prompt else text
        # the page renders Markdown, where an indent of four spaces makes a literal block
        verbatim = "\n".join("    " + line for line in text.split("\n"))
        # the text plugin reads a tensor of one string
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype=DT_STRING, string_val=[verbatim.encode()], tensor_shape=shape)
        value = Summary.Value(tag=name, metadata=create_summary_metadata(None, None), tensor=tensor)
        self._writer.add_event(
            Event(step=step, wall_time=time.time(), summary=Summary(value=[value]))
        )

    def histogram(self, step: int, name: str, edges: np.ndarray, counts: np.ndarray) -> None:
        """Record that counts[i] numbers lie between edges[i] and edges[i + 1]; nothing if all are 0.

        Empty bins at both ends are cut off, since the page draws the whole range of the edges.
        """
        filled = np.flatnonzero(counts)
        if not len(filled):
            return
        shown = slice(filled[0], filled[-1] + 1)
        left = edges[:-1][shown]
        right = edges[1:][shown]
        histogram = HistogramProto(
            min=left[0], max=right[-1], num=counts.sum(), bucket_limit=right, bucket=counts[shown]
        )
        value = Summary.Value(tag=name, histo=histogram)
        self._writer.add_event(
            Event(step=step, wall_time=time.time(), summary=Summary(value=[value]))
        )

    def flush(self) -> None:
        """Wait until everything is handed to the operating system.

        Raises:
            OSError: the disk is full or fails; later events go to a new file.
        """
        try:
            self._writer.flush()
        except OSError:  # it ended the writer's thread, so that this writer can write no more
            self._writer = _new_file(self.folder)
            raise

    def close(self) -> None:
        """Flush, and close the file."""
        self._writer.close()
