"""Errors that end a command early, with a message for the user."""


class UserError(Exception):
    """A user error; one sentence says what was given, what is needed and what to do."""


class Stopped(Exception):
    """A signal stopped the run early; the message says how to resume it."""

    def __init__(self, message: str, signal: int):
        """
        Args:
          message: text for the user.
          signal: number of the signal.
        """
        super().__init__(message)
        self.signal = signal
