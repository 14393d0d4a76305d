"""A target that nothing can meet."""


class Infeasible(ValueError):
    """No choice is as cheap as the limit; states what is."""

    def __init__(self, limit: float, cheapest: float, most_expensive: float) -> None:
        super().__init__(f"nothing costs {limit:g} or less: costs go from {cheapest:g} to {most_expensive:g}")
        self.limit, self.cheapest, self.most_expensive = limit, cheapest, most_expensive


class InfeasibleTarget(Infeasible):
    """No network of the space is as fast as asked for; states how fast they are."""

    def __init__(self, target_ms: float, min_ms: float, max_ms: float) -> None:
        super().__init__(target_ms, min_ms, max_ms)
        self.args = (
            f"a target latency of {target_ms:g} ms cannot be met: by this device's table the networks of the space "
            f"take from {min_ms:.6g} to {max_ms:.6g} ms",
        )
