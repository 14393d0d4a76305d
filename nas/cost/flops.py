"""FLOPs from shapes alone: of every choice in an MBConv space, and of networks of rows.

AttentiveNAS (arXiv:2011.09011), Table 2. FLOPs are multiply-accumulates of convolutions, squeeze-and-excitation, shortcut
convolutions and classifier; biases, batch norm, activations and pooling are not counted. With 1000 classes this gives the
published networks' FLOPs. TF-NAS (arXiv:2008.05314) counts additions of biases and of the last pool too: `MultiplyAdds.total`.
"""

from dataclasses import dataclass
from itertools import product
from math import ceil

import numpy as np

from nas.cost.table import CostTable
from nas.spaces.mbconv import SearchSpace, StageArch, StageSpace, hidden_width, make_divisible
from nas.spaces.rows import Plan, Row

MFLOP = 1_000_000  # multiply-accumulates


def table(space: SearchSpace, classes: int) -> CostTable:
    """FLOPs of all architectures, in MFLOPs, exact to the multiply-accumulate (int64).

    Raises:
        ValueError: if there are fewer than 1 classes.
    """
    if classes < 1:
        raise ValueError(f"{classes} classes: a classifier needs at least 1")
    shapes = CostTable.shapes(space)
    widths = [space.stem_widths, *(s.widths for s in space.stages)]
    sides = [stage_sides(space, r) for r in space.resolutions]
    stem = [conv_macs(3, width, 3, side[0]) for side, width in product(sides, space.stem_widths)]
    stages = []
    for i, stage in enumerate(space.stages):
        choices = product(sides, widths[i], stage.widths, stage.depths, stage.kernels, stage.expansions)
        macs = [stage_macs(stage, side[i], c_in, StageArch(*choice)) for side, c_in, *choice in choices]
        stages.append(np.array(macs, dtype=np.int64).reshape(shapes[1 + i]))
    head = [
        head_macs(c_in, space.head_expansion, width, side[-1], classes)
        for side, c_in, width in product(sides, widths[-1], space.head_widths)
    ]
    return CostTable(
        space=space,
        unit="MFLOPs",
        per_unit=MFLOP,
        stem=np.array(stem, dtype=np.int64).reshape(shapes[0]),
        stages=tuple(stages),
        head=np.array(head, dtype=np.int64).reshape(shapes[-1]),
    )


def stage_sides(space: SearchSpace, resolution: int) -> list[int]:
    """Side of the image, in pixels, before each stage and after the last: (stages + 1,)."""
    sides = [ceil(resolution / space.stem_stride)]
    for stage in space.stages:
        sides.append(ceil(sides[-1] / stage.stride))
    return sides


def stage_macs(space: StageSpace, side: int, c_in: int, arch: StageArch) -> int:
    """Multiply-accumulates of a stage on (c_in, side, side) inputs."""
    first = block_macs(side, space.stride, c_in, arch, space.se)
    later = block_macs(ceil(side / space.stride), 1, arch.width, arch, space.se)
    return first + (arch.depth - 1) * later


def block_macs(side: int, stride: int, c_in: int, arch: StageArch, se: bool) -> int:
    """Multiply-accumulates of one MBConv block on (c_in, side, side) inputs.

    1x1 expansion (none where the expansion is 1), depthwise convolution, squeeze-and-excitation,
    1x1 projection, and a 1x1 convolution on the shortcut where the channels differ.
    """
    hidden = hidden_width(c_in, arch.expansion)
    after = ceil(side / stride)
    macs = conv_macs(c_in, hidden, 1, side) if arch.expansion != 1 else 0
    macs += conv_macs(hidden, hidden, arch.kernel, after, groups=hidden)
    macs += 2 * hidden * make_divisible(hidden // 4) if se else 0
    macs += conv_macs(hidden, arch.width, 1, after)
    macs += conv_macs(c_in, arch.width, 1, after) if c_in != arch.width else 0
    return macs


def head_macs(c_in: int, expansion: int, width: int, side: int, classes: int) -> int:
    """Multiply-accumulates of the head: 1x1 convolution, global mean, 1x1 convolution to `width`, classifier."""
    return conv_macs(c_in, expansion * c_in, 1, side) + expansion * c_in * width + width * classes


def conv_macs(c_in: int, c_out: int, kernel: int, side_out: int, groups: int = 1) -> int:
    """Multiply-accumulates of a convolution with a square kernel and (c_out, side_out, side_out) outputs."""
    return c_in // groups * c_out * kernel**2 * side_out**2


@dataclass(frozen=True)
class MultiplyAdds:
    """Operations of one image, separated by what papers count."""

    products: int  # multiply-accumulates of convolutions and classifier; torch's FlopCounterMode counts two each
    biases: int  # additions of the biases: squeeze-and-excitation, the convolution after the pool, classifier
    pool: int  # additions of the average pool before the classifier

    @property
    def total(self) -> int:
        """The multiply-adds of TF-NAS."""
        return self.products + self.biases + self.pool


def multiply_adds(plan: Plan, classes: int) -> MultiplyAdds:
    """Multiply-adds of a network of rows on one image; batch norm, activations and pools of squeeze-and-excitation are not counted."""
    sides = plan.sides
    products = conv_macs(3, plan.stem.width, 3, sides[0])
    products += sum(row_macs(row, side) for row, side in zip(plan.rows, sides))
    head = plan.head
    products += conv_macs(plan.c_last, head.width, 1, sides[-1]) + head.width * head.mix + head.features * classes
    biases = sum(row.se + row.hidden for row in plan.rows if row.se) + head.mix + classes
    return MultiplyAdds(products, biases, head.width * sides[-1] ** 2)


def row_macs(row: Row, side: int) -> int:
    """Multiply-accumulates of an inverted residual block on (c_in, side, side) inputs."""
    after = ceil(side / row.stride)
    macs = conv_macs(row.c_in, row.hidden, 1, side) if row.hidden != row.c_in else 0
    macs += conv_macs(row.hidden, row.hidden, row.kernel, after, groups=row.hidden) + 2 * row.hidden * row.se
    return macs + conv_macs(row.hidden, row.c_out, 1, after)
