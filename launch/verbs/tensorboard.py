"""The verb `tensorboard`: the curves of a run in the browser."""

import argparse
import logging
import threading
from pathlib import Path

from launch.verbs.arguments import local_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN_DIR and where to serve."""
    parser.add_argument(
        "run_dir",
        metavar="RUN_DIR",
        type=local_folder,
        help="folder of a run, e.g. runs/tiny; or of several",
    )
    parser.add_argument(
        "--port", type=int, default=6006, help="port to serve on (default 6006; 0 = any free one)"
    )
    parser.add_argument(
        "--host",
        # TensorBoard has no password, so other machines reach it only if the user asks for it.
        default="127.0.0.1",
        help="address to serve on (default 127.0.0.1, this machine alone)",
    )


def main(args: argparse.Namespace) -> int:
    """Serve the curves until Ctrl-C."""
    server, url = serve(args.run_dir, host=args.host, port=args.port)
    print(f"TensorBoard of {args.run_dir} on {url} (Ctrl-C ends it)", flush=True)
    try:
        # The server runs in a thread. Waiting uses no CPU, and Ctrl-C interrupts it.
        threading.Event().wait()
    except KeyboardInterrupt:
        print()
    return 0


def serve(run_dir: Path, *, host: str, port: int) -> tuple[object, str]:
    """Start TensorBoard in a thread: (server, its URL). Raises ValueError when there is nothing to show or
    the port is taken.
    """
    if not run_dir.is_dir():
        raise ValueError(f"{run_dir}: no such folder; give the folder of a run, e.g. runs/tiny")
    # For a folder without events TensorBoard would show an empty page and no error.
    if next(run_dir.rglob("events.out.tfevents.*"), None) is None:
        remedy = "give the folder of a run that has begun to train"
        raise ValueError(f"{run_dir}: holds no TensorBoard events; {remedy}")

    # Imported after the checks, because it takes a second.
    from tensorboard import default, program

    # TensorBoard warns about every optional library that is missing; errors still show.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    server = program.TensorBoard(plugins=default.get_plugins())
    options = {
        "--logdir": str(run_dir),
        "--host": host,
        "--port": str(port),
        "--load_fast": "false",  # the fast loader is a binary that not every platform has
    }
    server.configure(argv=["tensorboard", *(word for item in options.items() for word in item)])
    try:
        return server, server.launch()
    except program.TensorBoardServerException as error:
        reason = error.msg.rstrip(".")
        raise ValueError(f"--host {host} --port {port}: {reason}; choose another --port") from None
