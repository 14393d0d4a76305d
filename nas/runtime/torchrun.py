"""torchrun that listens on 127.0.0.1 only when it runs on one machine: `python -m nas.runtime.torchrun ...`, with torchrun's arguments.

PyTorch's rendezvous stores listen on all addresses of a machine, and torchrun's store holds pickles: whoever reaches it can
run code. The backend `loopback` keeps it on this machine; `nas.runtime.distributed.rendezvous_store` does the same for the
processes. Failures are reported in one line, since the processes print their own errors.
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

from nas.runtime.distributed import LOOPBACK, serve_store

RESUME_HINT = "the same command resumes from the last checkpoint"


class Loopback(C10dRendezvousBackend):
    """torchrun's rendezvous at a store for one machine."""

    @property
    def name(self) -> str:
        return LOOPBACK


def _rendezvous(parameters: RendezvousParameters) -> RendezvousHandler:
    store = serve_store(0, timedelta(seconds=60))
    return create_handler(store, Loopback(store, parameters.run_id), parameters)


def main(arguments: list[str]) -> None:
    """Run torchrun; ends the interpreter with 1 if a process finally failed, with 128 + n after signal n."""
    rendezvous_handler_registry.register(LOOPBACK, _rendezvous)
    try:
        with TemporaryDirectory(prefix="torchrun-") as logs:  # else torchrun leaves one behind
            run.run(run.parse_args(["--log-dir", logs, *arguments]))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            reason = ", possibly because memory ran out" if -failure.exitcode == signal.SIGKILL else ""
            print(f"\nerror: process {rank} was ended by {failure.signal_name()}{reason}; {RESUME_HINT}", file=sys.stderr)
        sys.exit(1)
    except SignalException as stopped:
        if stopped.sigval != signal.SIGINT:  # else the processes print it
            print(f"\nstopped; {RESUME_HINT}", file=sys.stderr)
        sys.exit(128 + stopped.sigval)


if __name__ == "__main__":
    main(sys.argv[1:])
