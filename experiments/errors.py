"""Mistakes that are the user's to mend, and how a command ends."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Says in one sentence what came, what was wanted and what to do."""


def exit_with(main: Callable[[], None]) -> None:
    """Runs a command: status 0 done, 2 the user's mistake, 1 anything else."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
