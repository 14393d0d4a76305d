"""Former name of `runner.execute`, until the studies use it."""

from nas.stages.runner import execute as user_errors

__all__ = ["user_errors"]
