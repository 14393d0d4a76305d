"""How much evolution is run over the one-shot model: section `oneshot.evolution` of studies/methods/params.yaml."""

from typing import Annotated

from pydantic import Field

from nas.runtime.params import Section

Count = Annotated[int, Field(ge=0)]


class Settings(Section):
    """How much evolution to run."""

    population: Annotated[int, Field(ge=2)]  # networks drawn at first
    parents: Annotated[int, Field(ge=2)]  # the best so far, that mutations and children are made of
    mutations: Count  # a round
    crossovers: Count  # a round
    rounds: Count
    mutation_probability: Annotated[float, Field(gt=0, le=1)]  # of a stage's depth, and of a block's configuration
