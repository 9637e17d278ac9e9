"""Retries of requests that failed for a temporary reason, with growing pauses."""

import time
from collections.abc import Callable
from typing import TypeVar

# huggingface_hub 1 is built on httpx and 2 on httpx2: its own names for their errors hold in both.
from huggingface_hub.errors import HfHubHTTPError, HTTPError

T = TypeVar("T")

WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Seconds before each further try. huggingface_hub's own retries, where it has any, come before these."""
LONGEST = 300.0
"""Seconds that a server may ask to be left alone for (Retry-After)."""
_PASSING = {408, 409, 412, 425, 429}
"""Statuses beside 5xx: too slow, another change at the same time (409, 412), too many requests. A retry checks again
what is there."""


def patiently(action: Callable[[], T], tell: Callable[[Exception, float], None]) -> T:
    """The action's value. Raises its last error, or the first that will not pass by itself.

    tell: is given what went wrong and the seconds that are waited, before each wait.
    """
    for wait in (*WAITS, None):
        try:
            return action()
        except Exception as error:
            if wait is None or not passes(error):
                raise
            seconds = min(max(_asked_for(error), wait), LONGEST)
            tell(error, seconds)
            time.sleep(seconds)
    raise AssertionError("the last try returns or raises")


def passes(error: Exception) -> bool:
    """Whether the same request may succeed later.

    huggingface_hub turns a failed large file into a RuntimeError (LFS) or ConnectionError (Xet), whatever the status:
    a signed URL may have expired or bytes been damaged on the way, and a new try gets a new URL.
    """
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status in _PASSING or status >= 500
    return isinstance(error, HTTPError | ConnectionError | TimeoutError | RuntimeError)


def _asked_for(error: Exception) -> float:
    if isinstance(error, HfHubHTTPError):
        seconds = error.response.headers.get("Retry-After", "")
        return float(seconds) if seconds.isdigit() else 0.0
    return 0.0
