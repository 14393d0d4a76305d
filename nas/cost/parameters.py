"""Parameters from shapes alone: of every choice in an MBConv space, and of networks of rows.

AttentiveNAS (arXiv:2011.09011), Table 2: weights of convolutions, shortcut convolutions, squeeze-and-excitation and
classifier, the biases of the last two, scale and shift of batch norms. Running statistics are not counted. The resolution
makes no difference.
"""

from itertools import product

import numpy as np

from nas.cost.flops import conv_macs
from nas.cost.table import CostTable
from nas.spaces.mbconv import SearchSpace, StageArch, StageSpace, hidden_width, make_divisible
from nas.spaces.rows import Plan, Row


def table(space: SearchSpace, classes: int) -> CostTable:
    """Numbers of parameters of all architectures (int64).

    Raises:
        ValueError: if there are fewer than 1 classes.
    """
    if classes < 1:
        raise ValueError(f"{classes} classes: a classifier needs at least 1")
    shapes = CostTable.shapes(space)
    widths = [space.stem_widths, *(s.widths for s in space.stages)]
    stem = [conv_weights(3, width, 3) + norm_parameters(width) for width in space.stem_widths]
    stages = [
        [
            stage_parameters(stage, c_in, StageArch(*choice))
            for c_in, *choice in product(before, stage.widths, stage.depths, stage.kernels, stage.expansions)
        ]
        for before, stage in zip(widths, space.stages)
    ]
    head = [head_parameters(c_in, space.head_expansion, width, classes) for c_in, width in product(widths[-1], space.head_widths)]
    arrays = [
        np.broadcast_to(np.array(numbers, dtype=np.int64).reshape(shape[1:]), shape).copy()
        for numbers, shape in zip([stem, *stages, head], shapes, strict=True)
    ]
    return CostTable(space=space, unit="parameters", per_unit=1, stem=arrays[0], stages=tuple(arrays[1:-1]), head=arrays[-1])


def stage_parameters(space: StageSpace, c_in: int, arch: StageArch) -> int:
    """Parameters of a stage on inputs of c_in channels."""
    return block_parameters(c_in, arch, space.se) + (arch.depth - 1) * block_parameters(arch.width, arch, space.se)


def block_parameters(c_in: int, arch: StageArch, se: bool) -> int:
    """Parameters of one MBConv block, whose layers `nas.cost.flops.block_macs` lists."""
    hidden = hidden_width(c_in, arch.expansion)
    reduced = make_divisible(hidden // 4)
    number = conv_weights(c_in, hidden, 1) + norm_parameters(hidden) if arch.expansion != 1 else 0
    number += conv_weights(hidden, hidden, arch.kernel, groups=hidden) + norm_parameters(hidden)
    number += 2 * hidden * reduced + reduced + hidden if se else 0
    number += conv_weights(hidden, arch.width, 1) + norm_parameters(arch.width)
    number += conv_weights(c_in, arch.width, 1) if c_in != arch.width else 0
    return number


def head_parameters(c_in: int, expansion: int, width: int, classes: int) -> int:
    """Parameters of the head: 1x1 convolution with batch norm, 1x1 convolution to `width`, classifier with bias."""
    wide = expansion * c_in
    return conv_weights(c_in, wide, 1) + norm_parameters(wide) + wide * width + (width + 1) * classes


def conv_weights(c_in: int, c_out: int, kernel: int, groups: int = 1) -> int:
    """Weights of a convolution with a square kernel and no bias: one multiply-accumulate each, per output pixel."""
    return conv_macs(c_in, c_out, kernel, 1, groups)


def norm_parameters(channels: int) -> int:
    """Scale and shift of a batch norm."""
    return 2 * channels


def of_plan(plan: Plan, classes: int) -> int:
    """Parameters of a network of rows: weights, biases, scale and shift of batch norms."""
    head = plan.head
    number = 27 * plan.stem.width + 2 * plan.stem.width + sum(row_parameters(row) for row in plan.rows)
    number += plan.c_last * head.width + 2 * head.width + (head.width + 1) * head.mix
    return number + (head.features + 1) * classes


def row_parameters(row: Row) -> int:
    """Parameters of an inverted residual block."""
    number = (row.c_in + 2) * row.hidden if row.hidden != row.c_in else 0
    number += (row.kernel**2 + 2) * row.hidden + (row.hidden + 2) * row.c_out
    return number + (2 * row.hidden * row.se + row.se + row.hidden if row.se else 0)
