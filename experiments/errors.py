"""Why a command ends before its time, in words for the user."""


class UserError(Exception):
    """Says in one sentence what came, what was wanted and what to do."""


class Stopped(Exception):
    """The run was asked to end before its time, and says how to go on with it."""

    def __init__(self, message: str, signal: int):
        """
        Args:
          message: for the user.
          signal: the number of the signal that asked.
        """
        super().__init__(message)
        self.signal = signal
