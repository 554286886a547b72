"""Readers: raw input → `Document`s, in an order that depends on the input alone (sorted paths), never on the number of processes.

Every reader is a frozen component with one method, `documents(source, *, work, drops=None) -> Iterator[Document]`:
`source` is the name it has in the config, `work` a folder for files of its own, `drops` the `Drops` in which a single damaged, empty
or undecodable record is counted by reason and then skipped. When nothing at all can be read (missing or empty folder, broken archive)
it raises one sentence that names the field, its value, the rule and the remedy: FileNotFoundError or ValueError.
"""
