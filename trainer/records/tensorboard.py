"""TensorBoard's event file of a phase."""

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
    """TensorBoard's own writer: nothing flushed is lost in a crash, and no TensorFlow is needed."""

    def __init__(self, folder: Path, first_step: int):
        earlier_events = any(folder.glob("events.out.tfevents.*"))
        self.folder, self._writer = folder, EventFileWriter(str(folder))
        if earlier_events:
            self.back_to(first_step - 1)

    def back_to(self, step: int) -> None:
        """Readers drop what they have read with the step of a START, or a later one, when they meet it."""
        start = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(step=step + 1, wall_time=time.time(), session_log=start))
        self._writer.flush()

    def write(self, step: int, now: float, row: dict[str, float]) -> None:
        """Numbers by name, at `now` (Unix seconds)."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items()]
        self._writer.add_event(Event(step=step, wall_time=now, summary=Summary(value=values)))

    def text(self, step: int, name: str, text: str) -> None:
        """A text, character for character."""
        verbatim = "\n".join(
            "    " + line for line in text.split("\n")
        )  # the page renders Markdown; four spaces make a literal block
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype=DT_STRING, string_val=[verbatim.encode()], tensor_shape=shape)
        value = Summary.Value(tag=name, metadata=create_summary_metadata(None, None), tensor=tensor)
        self._writer.add_event(Event(step=step, wall_time=time.time(), summary=Summary(value=[value])))

    def histogram(self, step: int, name: str, edges: np.ndarray, counts: np.ndarray) -> None:
        """How many numbers lie between two edges; shown from the first bin that holds one to the last, and
        not at all if none does.
        """
        filled = np.flatnonzero(counts)
        if not len(filled):
            return
        kept = slice(filled[0], filled[-1] + 1)
        left, right = edges[:-1][kept], edges[1:][kept]
        histogram = HistogramProto(
            min=left[0], max=right[-1], num=counts.sum(), bucket_limit=right, bucket=counts[kept]
        )
        value = Summary.Value(tag=name, histo=histogram)
        self._writer.add_event(Event(step=step, wall_time=time.time(), summary=Summary(value=[value])))

    def flush(self) -> None:
        """Until all is with the operating system.

        Raises:
            OSError: the disk does not take it; what comes from here on goes to a new file.
        """
        try:
            self._writer.flush()
        except OSError:  # its thread has ended
            self._writer = EventFileWriter(str(self.folder))
            raise

    def close(self) -> None:
        """Flush, and close the file."""
        self._writer.close()
