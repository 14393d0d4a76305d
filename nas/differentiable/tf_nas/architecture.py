"""Architecture parameters alpha (operations) and beta (depths), paths drawn from them, and the expected latency.

TF-NAS (arXiv:2008.05314), sections 3.2 to 3.4. The output of a stage is sum_d softmax(beta)_d x_d over the layers d where it
may stop, so layer l runs with the weight sum_{d >= l} softmax(beta)_d, and

    LAT(alpha, beta) = fixed + sum_stages sum_l sum_{d >= l} softmax(beta)_d sum_o softmax(alpha_l)_o t_{l,o}
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from nas.spaces.tf_nas import Arch, Space


class ArchitectureParameters(nn.Module):
    """Logits of operations, `alpha` (layers, operations), and of depths, `beta`, per stage (depth,); uniform at the start."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        self.alpha = nn.Parameter(torch.zeros(len(space.layers), len(space.operations)))
        self.beta = nn.ParameterList(torch.zeros(stage.depth) for stage in space.stages)
        self.project()

    def operations(self) -> Tensor:
        """(layers, operations) weights; rows sum to 1."""
        return self.alpha.softmax(1)

    def sinks(self) -> list[Tensor]:
        """Per stage (depth,) weights of the layers where it may stop; they sum to 1."""
        return [beta.softmax(0) for beta in self.beta]

    @torch.no_grad()
    def project(self) -> None:
        """Replace the logits by log-probabilities, in place: the softmax stays the same."""
        self.alpha.copy_(self.alpha.log_softmax(1))
        for beta in self.beta:
            beta.copy_(beta.log_softmax(0))

    def derive(self, widths: np.ndarray) -> Arch:
        """The architecture of the largest alpha and beta (supplement, equations 1 and 2).

        Args:
            widths: (layers, operations) hidden channels.
        """
        ops = self.alpha.argmax(1).tolist()
        depths = tuple(int(beta.argmax()) + 1 for beta in self.beta)
        return Arch(tuple(ops), depths, tuple(int(widths[i, o]) for i, o in enumerate(ops)))


def expected_latency_ms(operations: Tensor, sinks: Sequence[Tensor], latencies_ms: Tensor, fixed_latency_ms: float) -> Tensor:
    """Scalar: LAT in ms, differentiable in the weights of operations and sinks.

    Args:
        operations: (layers, operations) weights; rows sum to 1.
        sinks: per stage (depth,) weights that sum to 1.
        latencies_ms: (layers, operations), `LatencyTable.latencies_ms`.
        fixed_latency_ms: latency of the parts that every network has.
    """
    runs = torch.cat([sink.flip(0).cumsum(0).flip(0) for sink in sinks])  # (layers,) weight that a layer runs with
    return fixed_latency_ms + (runs * (operations * latencies_ms).sum(1)).sum()


def gumbel(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Standard Gumbel noise: argmax(log p + noise) is distributed as p."""
    return rng.gumbel(size=shape)


def sample_path(alpha: Tensor, rng: np.random.Generator) -> np.ndarray:
    """(layers,) one operation per layer, sampled by the softmax of alpha (layers, operations)."""
    return (alpha.detach().double().cpu().numpy() + gumbel(tuple(alpha.shape), rng)).argmax(1)


def sample_second_path(path: np.ndarray, operations: int, rng: np.random.Generator) -> np.ndarray:
    """(layers,) per layer one of the operations not on the path, uniformly: the second path of bi-sampling."""
    return (path + rng.integers(1, operations, size=len(path))) % operations


def gumbel_softmax(alpha: Tensor, temperature: float, rng: np.random.Generator) -> Tensor:
    """(layers, operations) weights, differentiable in alpha: the Gumbel softmax (arXiv:1611.01144)."""
    noise = torch.from_numpy(gumbel(tuple(alpha.shape), rng)).to(alpha)
    return ((alpha.log_softmax(1) + noise) / temperature).softmax(1)


def stage_slices(space: Space) -> list[slice]:
    """Per stage the slice of its layers."""
    ends = np.cumsum([0, *(stage.depth for stage in space.stages)]).tolist()
    return [slice(a, b) for a, b in pairwise(ends)]
