"""What it means that the source itself cannot be run."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sixfold.errors import SixfoldError
from sixfold.model.source import Source


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
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # The family's own code is transformers', and fails on configs that it was not tried with.
        said = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
        raise SourceNotRunError(
            f"transformers' own forward of {source.checkpoint.name} fails ({said})",
            "use a release of transformers that runs the model, and measure again",
        ) from error
