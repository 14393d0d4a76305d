"""Which pieces are measured together: chains that run through stem, stages and head, with every piece in at least one.

A piece that is measured alone, over and over, has its input and its weights in the fastest cache and pays for
the call once more. In a chain its input is fresh and its weights have been away, as in the network that it
will be part of; HardCoRe-NAS (arXiv:2102.11646) and others measure isolated blocks.
"""

from collections import Counter
from dataclasses import replace

from nas.cost.flops import stage_sides
from nas.cost.latency import Block, Head, Piece, Stem, distinct
from nas.spaces.mbconv import SearchSpace


def chains(space: SearchSpace) -> list[tuple[Piece, ...]]:
    """Chains that hold every piece of the space; in each stage the first block and one of those that repeat.

    From piece to piece the one that is in the fewest chains so far goes on, so that there are not many
    more chains than the stage with the most choices has.
    """
    found, used = [], Counter()
    for resolution in space.resolutions:
        missing = set(distinct(replace(space, resolutions=(resolution,)))) - used.keys()
        while missing:
            found.append(_chain(space, resolution, used))
            used.update(found[-1])
            missing -= used.keys()
    return found


def _chain(space: SearchSpace, resolution: int, used: Counter) -> tuple[Piece, ...]:
    sides = stage_sides(space, resolution)

    def least(options: list[Piece]) -> Piece:
        return min(options, key=lambda piece: used[piece])

    chain: list[Piece] = [least([Stem(resolution, width) for width in space.stem_widths])]
    for s, side, after in zip(space.stages, sides, sides[1:]):
        c_in = chain[-1].width
        first = least([Block(s.name, True, side, c_in, w, k, e) for w in s.widths for k in s.kernels for e in s.expansions])
        chain.append(first)
        if s.depths[-1] > 1:
            chain.append(least([Block(s.name, False, after, first.width, first.width, k, e) for k in s.kernels for e in s.expansions]))
    return *chain, least([Head(sides[-1], chain[-1].width, width) for width in space.head_widths])
