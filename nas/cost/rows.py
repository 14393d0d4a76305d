"""Multiply-adds and parameters of a network of rows, from shapes alone."""

from dataclasses import dataclass
from math import ceil

from nas.cost.flops import conv_macs
from nas.spaces.rows import Plan, Row


@dataclass(frozen=True)
class MultiplyAdds:
    """What an image costs, apart by what papers count and do not."""

    products: int  # multiply-accumulates of convolutions and classifier: half of what torch's FlopCounterMode counts
    biases: int  # additions of the biases: squeeze-and-excitation, the convolution after the pool, classifier
    pool: int  # additions of the average pool before the classifier

    @property
    def total(self) -> int:
        """As TF-NAS counts."""
        return self.products + self.biases + self.pool


def multiply_adds(plan: Plan, classes: int) -> MultiplyAdds:
    """Of one image; batch norm, activations and the pools of squeeze-and-excitation are not counted."""
    sides = plan.sides
    products = conv_macs(3, plan.stem.width, 3, sides[0])
    products += sum(row_products(row, side) for row, side in zip(plan.rows, sides))
    head = plan.head
    products += conv_macs(plan.c_last, head.width, 1, sides[-1]) + head.width * head.mix + head.features * classes
    biases = sum(row.se + row.hidden for row in plan.rows if row.se) + head.mix + classes
    return MultiplyAdds(products, biases, head.width * sides[-1] ** 2)


def row_products(row: Row, side: int) -> int:
    """Multiply-accumulates of a block on (c_in, side, side) inputs, biases not counted."""
    after = ceil(side / row.stride)
    found = conv_macs(row.c_in, row.hidden, 1, side) if row.hidden != row.c_in else 0
    found += conv_macs(row.hidden, row.hidden, row.kernel, after, groups=row.hidden) + 2 * row.hidden * row.se
    return found + conv_macs(row.hidden, row.c_out, 1, after)


def parameters(plan: Plan, classes: int) -> int:
    """What is learnt: weights, biases, scale and shift of batch norms."""
    head = plan.head
    found = 27 * plan.stem.width + 2 * plan.stem.width + sum(row_parameters(row) for row in plan.rows)
    found += plan.c_last * head.width + 2 * head.width + (head.width + 1) * head.mix
    return found + (head.features + 1) * classes


def row_parameters(row: Row) -> int:
    """What a block learns."""
    found = (row.c_in + 2) * row.hidden if row.hidden != row.c_in else 0
    found += (row.kernel**2 + 2) * row.hidden + (row.hidden + 2) * row.c_out
    return found + (2 * row.hidden * row.se + row.se + row.hidden if row.se else 0)
