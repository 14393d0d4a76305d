"""Predicted against measured accuracy on sub-networks outside the predictor's training data (AttentiveNAS, Figure 4)."""

import pandas as pd

from nas.cost.registry import COSTS
from nas.evaluation.metrics import kendall_tau
from nas.plots.style import BLUE, GREY, Chart, Series, wide


def charts(predictions: pd.DataFrame) -> tuple[Chart, Chart]:
    """The predictor, and FLOPs alone as a predictor, on the same sub-networks.

    Args:
        predictions: columns mflops, measured and predicted (percent), part ('fit' or 'test'); only 'test' is shown.

    Raises:
        ValueError: if there is no test part.
    """
    test = predictions[predictions["part"] == "test"]
    if not len(test):
        raise ValueError("no row of the predictions has part 'test'; accuracy on the fitted sub-networks shows nothing")
    measured, predicted, mflops = (test[c].to_numpy() for c in ("measured", "predicted", "mflops"))
    ends = pd.concat([test["measured"], test["predicted"]]).agg(["min", "max"]).to_numpy()
    return (
        Chart(
            "predictor",
            f"Random forest: Kendall's τ = {kendall_tau(predicted, measured):.2f}",
            "predicted top-1, %",
            "measured top-1, %",
            (
                Series("predicted = measured", ends, ends, GREY, dash="dash"),
                Series("sub-network", predicted, measured, BLUE, "circle", faint=True),
            ),
        ),
        Chart(
            "predictor-flops",
            f"FLOPs alone: Kendall's τ = {kendall_tau(mflops, measured):.2f}",
            COSTS["mflops"].label,
            "measured top-1, %",
            (Series("sub-network", mflops, measured, BLUE, "circle", faint=True),),
            log_x=wide(mflops),
        ),
    )
