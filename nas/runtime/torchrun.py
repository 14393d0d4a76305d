"""torchrun that on one machine listens on 127.0.0.1 alone: `python -m nas.runtime.torchrun ...`, with torchrun's own words behind it.

PyTorch's stores, by which processes find each other, listen on all of a machine's addresses, and torchrun's holds pickles: who
reaches it can run code. The backend `loopback` keeps it on this machine; `nas.runtime.distributed.meeting_place` does so for the processes' own.
What went wrong is told in a line: processes tell their errors themselves.
"""

import signal
import sys
from datetime import timedelta
from tempfile import TemporaryDirectory

from torch.distributed import run
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousParameters, rendezvous_handler_registry
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler

from nas.runtime.distributed import LOOPBACK, serve

GOES_ON = "the same command goes on from the last checkpoint"


class Loopback(C10dRendezvousBackend):
    """torchrun's own rendezvous, at a store for one machine."""

    @property
    def name(self) -> str:
        return LOOPBACK


def _rendezvous(parameters: RendezvousParameters) -> RendezvousHandler:
    store = serve(0, timedelta(seconds=60))
    return create_handler(store, Loopback(store, parameters.run_id), parameters)


def main(words: list[str]) -> None:
    """Run torchrun; ends the interpreter with 1 if a process failed for good, with 128 + n after signal n."""
    rendezvous_handler_registry.register(LOOPBACK, _rendezvous)
    try:
        with TemporaryDirectory(prefix="torchrun-") as logs:  # else it leaves one of its own
            run.run(run.parse_args(["--log-dir", logs, *words]))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            why = ", as the system does where memory runs out" if -failure.exitcode == signal.SIGKILL else ""
            print(f"\nerror: process {rank} was ended by {failure.signal_name()}{why}; {GOES_ON}", file=sys.stderr)
        sys.exit(1)
    except SignalException as stopped:
        if stopped.sigval != signal.SIGINT:  # else the processes say it
            print(f"\nstopped; {GOES_ON}", file=sys.stderr)
        sys.exit(128 + stopped.sigval)


if __name__ == "__main__":
    main(sys.argv[1:])
