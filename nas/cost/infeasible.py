"""The error for a target or bound that no architecture meets."""


class InfeasibleTarget(ValueError):
    """No architecture meets a target or bound; the message states the achievable range and what to change.

    Args:
        target: what was asked for, e.g. "at most 25 ms" or "between 25 and 26 ms".
        low: least achievable cost.
        high: greatest achievable cost.
        unit: of both, e.g. "ms".
        advice: what to change, e.g. "change params.yaml: search.targets".
    """

    def __init__(self, target: str, low: float, high: float, unit: str = "", advice: str = "") -> None:
        achievable = f"{low:.6g} to {high:.6g} {unit}".rstrip()
        super().__init__(f"no architecture costs {target}; the achievable range is {achievable}{advice and f'; {advice}'}")
        self.target, self.low, self.high = target, low, high
