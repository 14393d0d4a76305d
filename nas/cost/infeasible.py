"""A target that nothing can meet."""


class Infeasible(ValueError):
    """No choice is as cheap as the limit; states what is."""

    def __init__(self, limit: float, cheapest: float, dearest: float) -> None:
        super().__init__(f"nothing costs {limit:g} or less: costs go from {cheapest:g} to {dearest:g}")
        self.limit, self.cheapest, self.dearest = limit, cheapest, dearest


class InfeasibleTarget(Infeasible):
    """No network of the space is as fast as asked for; states how fast they are."""

    def __init__(self, target_ms: float, cheapest_ms: float, dearest_ms: float) -> None:
        super().__init__(target_ms, cheapest_ms, dearest_ms)
        self.args = (
            f"a target latency of {target_ms:g} ms cannot be met: by this device's table the networks of the space "
            f"take from {cheapest_ms:.6g} to {dearest_ms:.6g} ms",
        )
