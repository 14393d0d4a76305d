"""`python -m nas.tracking deliver`: write what waits in the outbox to MLflow; exits with 1 if something still waits."""

import sqlite3
import sys

from nas.runtime import params
from nas.tracking import store
from nas.tracking.delivery import deliver_all
from nas.tracking.store import TrackingConfig


def main(arguments: list[str]) -> None:
    if arguments != ["deliver"]:
        sys.exit("usage: python -m nas.tracking deliver")
    with store.use(params.read("tracking", TrackingConfig)) as used:
        try:
            used.reach(create=True)
        except (OSError, sqlite3.Error) as error:
            sys.exit(f"error: can't use the MLflow store: {used.source}: {error}")
        waiting = deliver_all(used, any_store=True)
    if waiting:
        sys.exit(f"{waiting} runs still wait in {store.outbox()}")
    print("nothing waits for MLflow")


if __name__ == "__main__":
    main(sys.argv[1:])
