"""Alpha and beta: how strong each operation of a layer and each depth of a stage is; the latency that they expect.

TF-NAS (arXiv:2008.05314), sections 3.2 to 3.4. The output of a stage is sum_d softmax(beta)_d x_d over the layers d where it
may stop, so layer l runs with the weight sum_{d >= l} softmax(beta)_d, and

    LAT(alpha, beta) = given + sum_stages sum_l sum_{d >= l} softmax(beta)_d sum_o softmax(alpha_l)_o t_{l,o}
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from nas.spaces.tf_nas import Arch, Space


class Strengths(nn.Module):
    """Logits of operations, `alpha` (layers, operations), and of depths, `beta` (depth of the stage,) a stage; all alike at first."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        self.alpha = nn.Parameter(torch.zeros(len(space.layers), len(space.operations)))
        self.beta = nn.ParameterList(torch.zeros(stage.depth) for stage in space.stages)
        self.project()

    def operations(self) -> Tensor:
        """(layers, operations) weights, each row adding up to 1."""
        return self.alpha.softmax(1)

    def sinks(self) -> list[Tensor]:
        """A stage: (depth,) weights of where it may stop, adding up to 1."""
        return [beta.softmax(0) for beta in self.beta]

    @torch.no_grad()
    def project(self) -> None:
        """Back to log-probabilities, in place: the same softmax."""
        self.alpha.copy_(self.alpha.log_softmax(1))
        for beta in self.beta:
            beta.copy_(beta.log_softmax(0))

    def strongest(self, widths: np.ndarray) -> Arch:
        """The network of the strongest operations and depths (supplement, equations 1 and 2).

        Args:
            widths: (layers, operations) hidden channels.
        """
        ops = self.alpha.argmax(1).tolist()
        depths = tuple(int(beta.argmax()) + 1 for beta in self.beta)
        return Arch(tuple(ops), depths, tuple(int(widths[i, o]) for i, o in enumerate(ops)))


def expected_latency_ms(operations: Tensor, sinks: Sequence[Tensor], latencies_ms: Tensor, fixed_latency_ms: float) -> Tensor:
    """Scalar: LAT in ms, differentiable in the weights of operations and sinks.

    Args:
        operations: (layers, operations) weights, rows adding up to 1.
        sinks: a stage, (depth,) weights that add up to 1.
        latencies_ms: (layers, operations), `LatencyTable.latencies_ms`.
        fixed_latency_ms: of what every network has.
    """
    runs = torch.cat([sink.flip(0).cumsum(0).flip(0) for sink in sinks])  # (layers,) weight that a layer runs with
    return fixed_latency_ms + (runs * (operations * latencies_ms).sum(1)).sum()


def gumbel(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Standard Gumbel noise: argmax(log p + noise) is drawn from p."""
    return rng.gumbel(size=shape)


def drawn_path(alpha: Tensor, rng: np.random.Generator) -> np.ndarray:
    """(layers,) an operation a layer, drawn by the softmax of alpha (layers, operations)."""
    return (alpha.detach().double().cpu().numpy() + gumbel(tuple(alpha.shape), rng)).argmax(1)


def other_path(path: np.ndarray, operations: int, rng: np.random.Generator) -> np.ndarray:
    """(layers,) in each layer one of the operations that are not on the path, all alike: the second path of bi-sampling."""
    return (path + rng.integers(1, operations, size=len(path))) % operations


def soft_mixture(alpha: Tensor, temperature: float, rng: np.random.Generator) -> Tensor:
    """(layers, operations) weights, differentiable in alpha: the Gumbel softmax (arXiv:1611.01144)."""
    noise = torch.from_numpy(gumbel(tuple(alpha.shape), rng)).to(alpha)
    return ((alpha.log_softmax(1) + noise) / temperature).softmax(1)


def stage_slices(space: Space) -> list[slice]:
    """Which of the layers are those of each stage."""
    ends = np.cumsum([0, *(stage.depth for stage in space.stages)]).tolist()
    return [slice(a, b) for a, b in pairwise(ends)]
