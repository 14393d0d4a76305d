"""The claims of TF-NAS (arXiv:2008.05314) and its supplement, tested by the experiments of this study."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from studies.claims import POINTS, Check, Claim, latency_checks, paired
from studies.tf_nas_claims.config import ALL_CLASSES, CHOSEN_CLASSES, STOPPED_EARLY

TARGET_TOLERANCE = 0.01  # of the target; in the supplement's Table 4 the lookup table deviates by at most 0.5 %
TABLE_TOLERANCE = 0.011  # of the table; in Table 4 a measurement deviates by at most 1.1 % (10.10 ms for 9.99)
CPU_NOISE = 0.1  # relative variation of the CPU seconds of equal work on a busy machine
TARGET_UNIT, LAYERS_UNIT = "% of the target", "% of the layers"


@dataclass(frozen=True, eq=False)
class Results:
    """Results of the stages."""

    targets: pd.DataFrame  # TF-NAS's own networks: name, `config.reached`, measured_latency_ms, noise_floor
    trade_off: pd.DataFrame  # of stage trade_off
    collapse: pd.DataFrame  # of stage collapse
    devices: pd.DataFrame  # of stage devices
    stopping: pd.DataFrame  # of stage stopping
    layers: int  # of the space
    operations: int  # per layer


def all_claims(r: Results) -> list[Claim]:
    """In the order of the page."""
    return [_targets(r), _table(r), _scaled(r), _unscaled(r), _sensitive(r), _collapse(r), *_devices(r), _classes(r), _stopping(r)]


def deviations(rows: pd.DataFrame) -> pd.Series:
    """Distance of table latencies from the target, as a fraction of it."""
    return (rows["table_latency_ms"] / rows["target_latency_ms"] - 1).abs()


def target_checks(rows: pd.DataFrame, names: Sequence[str], bounds_excuse: bool) -> tuple[Check, ...]:
    """A check per row: within 1 % of the target, or within one step of the widths if that is more.

    Args:
        bounds_excuse: whether a network that misses its target with all widths at a bound is inconclusive.
    """
    checks = []
    for name, off, row in zip(names, deviations(rows), rows.to_dict("records")):
        limit, bound = max(TARGET_TOLERANCE, row["step_latency_ms"] / row["target_latency_ms"]), row["bounds_reached"]
        reason = f"all widths are at their {bound}" if isinstance(bound, str) and bound and off > limit else ""
        label = f"{name} ({reason})" if reason and not bounds_excuse else name
        checks.append(Check(label, off, limit, reason=reason if bounds_excuse else ""))
    return tuple(checks)


def chance_share(layers: int, operations: int, rng: np.random.Generator) -> float:
    """Share of the layers with the most frequent operation if every layer draws one uniformly, the mean of 10,000 draws."""
    drawn = rng.integers(operations, size=(10_000, layers))
    return float(np.mean([np.bincount(row).max() for row in drawn]) / layers)


def _targets(r: Results) -> Claim:
    return Claim(
        "targets",
        "main paper, section 3.4; supplement, Table 4",
        "The derived networks meet the target latency precisely, by the latency lookup table.",
        "Table latency of the networks of `pipelines/tf_nas` against their targets: within 1 %, or within one more step of the widths "
        "if that is more. A network whose widths are all at a bound cannot come nearer and is inconclusive.",
        target_checks(
            r.targets, [f"{row['name']}: {row['target_latency_ms']:.3g} ms" for row in r.targets.to_dict("records")], bounds_excuse=True
        ),
        "deviation of at most 0.5 %",
    )


def _table(r: Results) -> Claim:
    return Claim(
        "measured latency",
        "supplement, section 7, Table 4",
        "The actual latency is almost equal to that of the latency lookup table.",
        "Measured latency of the same networks against the sum of the table: within 1.1 %, the maximum in Table 4. The uncertainty is the "
        "noise floor, the relative difference of two measurements of the network.",
        latency_checks(
            r.targets, [f"{row['name']}: {row['table_latency_ms']:.3g} ms" for row in r.targets.to_dict("records")], TABLE_TOLERANCE
        ),
        "deviation of at most 1.1 %",
    )


def _rows(r: Results, scaled: bool) -> pd.DataFrame:
    return r.trade_off[r.trade_off["scaled"] == scaled]


def _scaled(r: Results) -> Claim:
    rows = _rows(r, True)
    return Claim(
        "lambda, with scaling",
        "supplement, section 10, Figure 3, Table 8",
        "With elasticity scaling every lambda finds a network that meets the target.",
        "Table latency against the target, as for *targets*; but a network whose widths are at a bound counts as missing it.",
        target_checks(rows, [f"lambda {row['trade_off']:g}, seed {row['seed']}" for row in rows.to_dict("records")], bounds_excuse=False),
        "deviation of at most 0.9 %, measured",
        "trade_off",
    )


def _percent_off(r: Results, scaled: bool) -> pd.Series:
    """Deviation from the target, percent, by seed and lambda."""
    rows = _rows(r, scaled)
    return (100 * deviations(rows)).set_axis(pd.MultiIndex.from_frame(rows[["seed", "trade_off"]]))


def _unscaled(r: Results) -> Claim:
    return Claim(
        "lambda, without scaling",
        "supplement, section 10, Figure 3",
        "Without elasticity scaling no lambda meets the target as precisely.",
        "Deviation from the target without scaling (A) against that with it (B), in pairs of the same lambda and seed.",
        (paired("without scaling over with it", TARGET_UNIT, _percent_off(r, False), _percent_off(r, True)),),
        "the curves of Figure 3",
        "trade_off",
    )


def _sensitive(r: Results) -> Claim:
    lowest, highest = r.trade_off["trade_off"].min(), r.trade_off["trade_off"].max()
    low, high = (_percent_off(r, False).xs(value, level="trade_off") for value in (lowest, highest))
    return Claim(
        "sensitivity to lambda",
        "supplement, section 10, Figure 3",
        "Without elasticity scaling a small lambda misses the target, and a large one comes close to it.",
        f"Deviation from the target with lambda {lowest:g} (A) against that with {highest:g} (B), in pairs of the same seed.",
        (paired(f"lambda {lowest:g} over {highest:g}", TARGET_UNIT, low, high),),
        "the curves of Figure 3",
        "trade_off",
    )


def _collapse(r: Results) -> Claim:
    rows = r.collapse.set_index("seed")
    one_path, both_paths = (rows[rows["bi_sampling"] == with_it] for with_it in (False, True))
    chance = chance_share(r.layers, r.operations, np.random.default_rng(0))
    return Claim(
        "operation collapse",
        "main paper, section 3.2; supplement, section 5",
        "Without bi-sampling the layers collapse to the same operation; bi-sampling alleviates it.",
        "Share of the layers whose strongest operation is the one that most layers share, without bi-sampling (A) against with it (B), in "
        "pairs of the same seed.",
        (paired("one path over both", LAYERS_UNIT, 100 * one_path["same_operation"], 100 * both_paths["same_operation"]),),
        figure="collapse",
        remark=f"If every layer drew one of {r.operations} operations uniformly, it would be {100 * chance:.0f} % of {r.layers} layers. "
        f"Different operations in the layers: {one_path['different'].mean():.1f} without bi-sampling, "
        f"{both_paths['different'].mean():.1f} with it.",
    )


def _devices(r: Results) -> list[Claim]:
    rows = r.devices.assign(off=deviations(r.devices))
    own = rows[rows["network"] == rows["device"]]
    other = rows[rows["network"] != rows["device"]].set_index("device")["off"]
    own_against_other = tuple(
        Check(f"{row['device']}: deviation of its own network, against the other's", row["off"], other[row["device"]], row["table_error"])
        for row in own.to_dict("records")
    )
    return [
        Claim(
            "two devices, targets",
            "supplement, section 7, Table 4",
            "A search constrained to a device finds a network that meets that device's target.",
            "Table latency of each device's own network against its target, as for *targets*.",
            target_checks(own, list(own["device"]), bounds_excuse=True),
            "deviation of at most 0.5 %",
        ),
        Claim(
            "two devices, each its own",
            "supplement, section 7, Table 4",
            "A network that was searched for one device does not meet the target of the other.",
            "Deviation from the device's target, by its table: that of its own network against that of the other's, which is the limit of "
            "the check. The uncertainty is the error of the device's table on networks that it was not fitted to, the 90th "
            "percentile.",
            own_against_other,
            "not comparable: the targets of GPU and CPU differ",
        ),
        Claim(
            "two devices, measured",
            "supplement, section 7, Table 4",
            "On either device the actual latency is almost equal to that of its lookup table.",
            "Both networks measured on both devices, as for *measured latency*.",
            latency_checks(
                rows, [f"searched for {row['network']}, on {row['device']}" for row in rows.to_dict("records")], TABLE_TOLERANCE
            ),
            "deviation of at most 1.1 %",
        ),
    ]


def _by(r: Results, searched: str) -> pd.DataFrame:
    return r.stopping[r.stopping["searched"] == searched].set_index("seed")


def _classes(r: Results) -> Claim:
    full, chosen = _by(r, ALL_CLASSES), _by(r, CHOSEN_CLASSES)
    share = chosen["cpu_seconds"] / full["cpu_seconds"]
    return Claim(
        "chosen classes",
        "supplement, section 2",
        "A search on one class per group of equally hard classes takes less time.",
        f"CPU seconds of the search including the choice of classes, as a share of those on all classes; the uncertainty is "
        f"{CPU_NOISE:.0%} of that, for a busy machine.",
        tuple(Check(f"seed {seed}: CPU seconds", s, 1.0, CPU_NOISE * s) for seed, s in share.items()),
        remark=f"{_cost(full)} on all classes, {_cost(chosen)} on the chosen ones. The networks share the operations of "
        f"{chosen['same_layers'].mean():.0%} of the layers (two random ones share {1 / r.operations:.0%}) and the depths of "
        f"{chosen['same_depths'].mean():.0%} of the stages. Trained from scratch they have {full['top1'].mean():.2f} % and "
        f"{chosen['top1'].mean():.2f} % top-1.",
    )


def _stopping(r: Results) -> Claim:
    chosen, early = _by(r, CHOSEN_CLASSES), _by(r, STOPPED_EARLY)
    epochs = chosen["epochs"].max()
    ended = (
        f"Stopped after {early['epochs'].mean():.1f} of {epochs} epochs" if early["epochs"].min() < epochs else "The rule stopped no search"
    )
    return Claim(
        "early stopping",
        "supplement, section 5",
        "Bi-sampling finds a better network than one path per step with early stopping.",
        "Top-1 on test images of the derived networks, trained from scratch: bi-sampling to the last epoch (A) against early "
        "stopping (B), in pairs of the same seed. The supplement compares at the epoch where early stopping ended.",
        (paired("bi-sampling over early stopping", POINTS, chosen["top1"], early["top1"], "+0.4 (76.1, 75.7)"),),
        "76.1 % against 75.7 %, stopped at epoch 64 of 90",
        remark=f"{ended}: {_cost(early)}, against {_cost(chosen)}. "
        f"The network shares the operations of {early['same_layers'].mean():.0%} of the layers with that of all classes; "
        f"{early['same_operation'].mean():.0%} of its layers have the same operation, {chosen['same_operation'].mean():.0%} of those with "
        "bi-sampling.",
    )


def _cost(rows: pd.DataFrame) -> str:
    return f"{rows['cpu_seconds'].mean():,.0f} CPU seconds"
