"""A progress bar with the time that is left on a terminal, single lines elsewhere; of several processes the first shows it."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], what: str, total: int, done: int = 0) -> Iterator[T]:
    """Yield the items while showing how far they are; `done` of the total were there before."""
    if os.environ.get("RANK", "0") != "0":  # set by torchrun
        yield from items
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
            for item in items:
                yield item
                bar.advance(task)
        return
    start = time.monotonic()
    resumed = f", {done} of them before" if done else ""
    print(f"{what}: {total} to do{resumed}", flush=True)
    yield from items
    print(f"{what}: done in {time.monotonic() - start:.0f} s", flush=True)
