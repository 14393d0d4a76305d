"""A mistake of the user's is told in a line, not in a traceback."""

import os
import sys
from collections.abc import Callable


def user_errors(main: Callable[[], object]) -> None:
    """Call a stage; NAS_DEBUG=1 shows where an error arose."""
    try:
        main()
    except (ValueError, OSError, ArithmeticError, RuntimeError, MemoryError) as error:
        if os.environ.get("NAS_DEBUG"):
            raise
        which = f" in process {rank}" if (rank := os.environ.get("RANK")) else ""  # torchrun's number
        print(f"\nerror{which}: {error}\n(NAS_DEBUG=1 shows where)", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
