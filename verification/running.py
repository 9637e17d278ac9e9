"""What it means that a model cannot be run: the source itself, or what was made of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from sixfold.errors import SixfoldError
from sixfold.model.source import Source

_RAISED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""By a family's own code, which is transformers', on configs and weights that it was not tried with."""


class SourceNotRunError(SixfoldError):
    """The source itself cannot be run here: that a variant was not measured says nothing against it."""


@contextmanager
def running(source: Source) -> Iterator[None]:
    """While open, what fails is the source's own run: raises SourceNotRunError in place of it."""
    try:
        yield
    except SixfoldError as error:
        raise SourceNotRunError(error.what, error.remedy) from error
    except torch.OutOfMemoryError:  # of this machine, not of the model
        raise
    except _RAISED as error:
        raise SourceNotRunError(
            f"transformers' own forward of {source.checkpoint.name} fails ({_said(error)})",
            "use a release of transformers that runs the model, and measure again",
        ) from error


@contextmanager
def giving_up(fail: Callable[[SixfoldError], None]) -> Iterator[None]:
    """While open, what fails is a variant's run, which `fail` is told instead: the others go on."""
    try:
        yield
    except SixfoldError as error:
        fail(error)
    except torch.OutOfMemoryError:
        raise
    except _RAISED as error:
        what = f"transformers' forward with its weights fails ({_said(error)}), and with the source's it does not"
        fail(SixfoldError(what, "export it again"))


def _said(error: Exception) -> str:
    return next(iter(f"{type(error).__name__}: {error}".splitlines())).rstrip(".")
