"""TensorBoard's event file of a phase, by TensorBoard's own writer: no TensorFlow is needed."""

import time
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter


class EventFile:
    """A new event file in `folder`; rows of steps from `first_step` on in older files there are hidden."""

    def __init__(self, folder: Path, first_step: int):
        is_resumed = any(folder.glob("events.out.tfevents.*"))
        self.folder = folder
        self._writer = EventFileWriter(str(folder))
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
        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items()]
        self._writer.add_event(Event(step=step, wall_time=now, summary=Summary(value=values)))

    def text(self, step: int, name: str, text: str) -> None:
        """Record a text, to be shown verbatim."""
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
            self._writer = EventFileWriter(str(self.folder))
            raise

    def close(self) -> None:
        """Flush, and close the file."""
        self._writer.close()
