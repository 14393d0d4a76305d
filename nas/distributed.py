"""Many processes as one: section `launcher` starts torchrun, which starts them; on one process nothing of it shows.

All ranks draw the same architectures, take equal shares of a batch, and average what they found; the first one alone
writes. Collectives run on NCCL for a GPU's tensors and on gloo for others.
"""

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar
from zlib import crc32

import torch
import torch.distributed as dist
from pydantic import Field, model_validator
from torch import Tensor

from nas import params, provenance
from nas.checkpoint import STATE, Checkpoint

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)  # that a rank waits for another, e.g. for the first to write
SHARE = 16  # architectures that each rank evaluates between two exchanges
TORCHRUN = "TORCHELASTIC_RUN_ID"  # set by it


class Launcher(params.Section):
    """Section `launcher`: on how many processes `pretrain`, `train` and `search` run."""

    processes: Annotated[int, Field(ge=1)]  # on each machine; one a GPU, or one where there is none
    nodes: Annotated[int, Field(ge=1)]  # machines
    rendezvous: str | None  # host:port of the first machine; null on one machine
    restarts: Annotated[int, Field(ge=0)]  # of all processes after one died; each goes on from the last checkpoint

    @model_validator(mode="after")
    def _meets(self) -> Self:
        if self.nodes > 1 and not self.rendezvous:
            raise ValueError(f"nodes {self.nodes}: rendezvous is needed, host:port of the first of them")
        return self

    def command(self, module: str) -> list[str]:
        """torchrun for a module, without the interpreter in front."""
        meet = self.rendezvous or "127.0.0.1:0"
        here = [] if self.nodes > 1 else ["--local-addr", "127.0.0.1"]
        return [
            *("-m", "torch.distributed.run", "--nnodes", str(self.nodes), "--nproc-per-node", str(self.processes)),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", meet, *here, "--max-restarts", str(self.restarts)),
            *("-m", module),
        ]

    def environment(self) -> dict[str, str]:
        """What torchrun and the processes need in theirs; what is set already stays."""
        found = {
            "OMP_NUM_THREADS": "1",  # runtime.threads is set in the processes; without, torchrun warns
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # else processes that are started again meet the addresses of dead ones
        }
        if self.nodes == 1 and os.path.isdir("/sys/class/net/lo"):
            found["GLOO_SOCKET_IFNAME"] = "lo"  # no other machine has to reach these
        return found | {key: os.environ[key] for key in found if key in os.environ}


def launch(main: Callable[[], object]) -> None:
    """Call a stage's main, on as many processes as section `launcher` says: torchrun takes this process's place and starts them.

    Raises:
        ParamsError: for a mistake in the section.
    """
    if TORCHRUN in os.environ:
        with group():
            main()
        return
    p = params.read("launcher", Launcher)
    if p.processes * p.nodes == 1:
        main()
        return
    if "DVC_STAGE" in os.environ:
        provenance.die_with_parent()  # stays in force over exec
    os.environ.update(p.environment())
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *p.command(sys.modules["__main__"].__spec__.name)])


@contextmanager
def group() -> Iterator[None]:
    """The processes that torchrun started, as one group; what they print is the same, so only the first one's is shown."""
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        with nullcontext() if first() else redirect_stdout(None):
            yield
    finally:
        dist.destroy_process_group()


def ranks() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def first() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def share(batch: int) -> slice:
    """This rank's equal part of a batch's places.

    Raises:
        ValueError: if it cannot be divided evenly; names the key.
    """
    if batch % ranks():
        raise ValueError(f"recipe.batch {batch} cannot be divided among {ranks()} processes: choose a multiple in params.yaml")
    part = batch // ranks()
    return slice(rank() * part, (rank() + 1) * part)


def mean(values: Tensor) -> Tensor:
    """(n,) the mean over all ranks, the same bits on each."""
    if ranks() == 1:
        return values
    found = [torch.empty_like(values) for _ in range(ranks())]
    dist.all_gather(found, values.contiguous())
    return torch.stack(found).mean(0)  # in the same order on every rank


def average_gradients(module: torch.nn.Module) -> None:
    """Put the mean over all ranks in place of each gradient: one reduction for all of them."""
    if ranks() == 1:
        return
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= ranks()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def each(function: Callable[[Sequence[T]], Iterable[float]], items: Sequence[T]) -> Iterator[float]:
    """function of the items, in order; each rank computes its share of them, and all get all.

    Args:
        function: gives a number for each item it gets, in order.

    Raises:
        RuntimeError: if the ranks do not have the same items, which would mix up results.
    """
    if ranks() == 1:
        yield from function(items)
        return
    for start in range(0, len(items), SHARE * ranks()):
        block = list(items[start : start + SHARE * ranks()])
        mine = torch.full((SHARE + 1,), torch.nan, dtype=torch.float64)
        mine[SHARE] = crc32(repr(block).encode())
        own = block[rank() :: ranks()]
        mine[: len(own)] = torch.tensor(list(function(own)), dtype=torch.float64)
        found = [torch.empty_like(mine) for _ in range(ranks())]
        dist.all_gather(found, mine)
        if len({float(f[SHARE]) for f in found}) > 1:
            raise RuntimeError("the processes do not evaluate the same architectures: are versions or files of theirs not the same?")
        yield from (float(found[i % ranks()][i // ranks()]) for i in range(len(block)))


class FirstSaves:
    """A checkpoint for all ranks: the first one writes and reads, and all get what it read."""

    def __init__(self, own: Checkpoint | None) -> None:
        """The first rank's own; None on others."""
        self._own = own

    @property
    def folder(self) -> Path:
        """The first rank's, for files beside the state."""
        return self._own.folder

    def save(self, state: dict[str, Any], name: str = STATE) -> None:
        if self._own is not None:
            self._own.save(state, name)

    def load(self, name: str = STATE) -> dict[str, Any] | None:
        return from_first(None if self._own is None else self._own.load(name))


def from_first(state: dict[str, Any] | None) -> dict[str, Any] | None:
    """The first rank's tensors and plain values, on every rank; others may give anything."""
    if ranks() == 1:
        return state
    buffer = io.BytesIO()
    torch.save(state if first() else None, buffer)
    size = torch.tensor([buffer.tell()])
    dist.broadcast(size, 0)
    content = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8) if first() else torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(content, 0)
    return torch.load(io.BytesIO(content.numpy().tobytes()), map_location="cpu", weights_only=True)
