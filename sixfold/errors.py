"""The errors a user can meet. Each is one sentence that says what is wrong, where, and what to do."""


class SixfoldError(Exception):
    """Something in the user's input or machine stops the work; the message is all the user sees.

    `what` names the problem and where it is; `remedy` says what to do about it.
    """

    exit_code = 1

    def __init__(self, what: str, remedy: str = "") -> None:
        self.what = what.rstrip(".")
        self.remedy = remedy.rstrip(".")
        super().__init__(f"{self.what}; {self.remedy}." if remedy else f"{self.what}.")


class UsageError(SixfoldError):
    """The command, a recipe or an option is wrong; nothing was started."""

    exit_code = 2


class GateError(SixfoldError):
    """The work is done, but it fails a quality gate of the recipe."""

    exit_code = 3
