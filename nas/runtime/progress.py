"""Progress bar with the remaining time on a terminal, single lines elsewhere; rank 0 shows it."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress(values: Iterable[T], what: str, total: int, done: int = 0) -> Iterator[T]:
    """Yield the values and show the progress; `done` of the total were finished by an earlier run."""
    if os.environ.get("RANK", "0") != "0":  # set by torchrun
        yield from values
        return
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=total, completed=done)
            for value in values:
                yield value
                bar.advance(task)
        return
    start = time.monotonic()
    resumed = f", {done} of them done" if done else ""
    print(f"{what}: {total} to do{resumed}", flush=True)
    yield from values
    print(f"{what}: done in {time.monotonic() - start:.0f} s", flush=True)
