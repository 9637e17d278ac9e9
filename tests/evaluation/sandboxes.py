"""What isolates model-written code on the machine that runs the tests, tried once for all of them."""

from evaluation.sandbox.isolation import _candidates, _does_not_work

SANDBOXES = [candidate for candidate in _candidates() if not _does_not_work(candidate)]
