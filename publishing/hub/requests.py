"""Requests to the Hub: retried where that can help, with every refusal as one sentence without the token."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from huggingface_hub import HfApi, constants, get_session, get_token, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HTTPError, Response
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from publishing.hub.retries import patiently
from sixfold.errors import SixfoldError

T = TypeVar("T")

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,}")
_AGAIN = "run the same command again: what has arrived is not sent again"
_LONGEST = 300


@dataclass(frozen=True)
class Hub:
    """Whoever holds `token`, at `api.endpoint`. tell: is given a sentence where a request has to be tried again."""

    api: HfApi
    token: str = field(repr=False)
    tell: Callable[[str], None]

    def ask(self, what: str, action: Callable[[], T]) -> T:
        """The action's value; what went wrong for good as a SixfoldError. what: continues "could not"."""

        def waiting(error: Exception, seconds: float) -> None:
            self.tell(f"{self._refusal(what, error).what}; trying again in {seconds:.0f} s")

        try:
            return patiently(action, waiting)
        except (HfHubHTTPError, HTTPError, OSError, RuntimeError, ValueError) as error:
            # The cause may quote headers and URLs, so it goes no further.
            raise self._refusal(what, error) from None

    def text(self, repo: str, name: str, commit: str) -> str:
        """Content of a small file."""

        def get() -> str:
            url = hf_hub_url(repo, name, revision=commit)
            response = get_session().get(url, headers=build_hf_headers(token=self.token), follow_redirects=True)
            hf_raise_for_status(response)
            return response.content.decode(errors="replace")

        return self.ask(f"read {name} of {repo}", get)

    def card_problems(self, card: str) -> tuple[str, ...]:
        """The Hub's own objections to a card's front matter (POST /api/validate-yaml)."""

        def post() -> tuple[str, ...]:
            url = f"{self.api.endpoint}/api/validate-yaml"
            response = get_session().post(url, json={"content": card, "repoType": "model"})
            if response.status_code != 400:
                hf_raise_for_status(response)
            return tuple(self.clean(str(error.get("message"))) for error in response.json().get("errors", []))

        return self.ask("have the card validated", post)

    def clean(self, text: str) -> str:
        """On one line, with the token removed."""
        one_line = " ".join(_TOKEN.sub("hf_***", text.replace(self.token, "hf_***")).split())
        return one_line if len(one_line) <= _LONGEST else one_line[:_LONGEST] + "..."

    def _refusal(self, what: str, error: Exception) -> SixfoldError:
        answer = _answer_in(error)
        if answer is not None:
            said = self.clean(answer.headers.get("X-Error-Message", ""))
            status = f"status {answer.status_code}{f' ({said})' if said else ''}"
            return SixfoldError(f"could not {what}: the Hub answered with {status}", _remedy(answer.status_code))
        if isinstance(error, OSError) and error.filename:
            return SixfoldError(f"could not {what}: {error.filename}: {error.strerror}", "check that file")
        if isinstance(error, ValueError):
            return SixfoldError(f"could not {what}: {self.clean(str(error))}", "correct that and run the command again")
        reason = self.clean(str(error)) or type(error).__name__
        return SixfoldError(f"could not {what}: {reason}", f"check the connection and {_AGAIN}")


def has_token() -> bool:
    """Whether there is one, and the Hub may be asked."""
    return get_token() is not None and not constants.HF_HUB_OFFLINE


def log_in(tell: Callable[[str], None]) -> Hub:
    """With the token that huggingface_hub knows. Raises SixfoldError where there is none."""
    token = get_token()
    if constants.HF_HUB_OFFLINE:
        raise SixfoldError("HF_HUB_OFFLINE is set, so nothing can be published", "unset it")
    if token is None:
        raise SixfoldError(
            "there is no Hugging Face token on this machine",
            f"make one that may write at {constants.ENDPOINT}/settings/tokens, and run `hf auth login` or set HF_TOKEN",
        )
    return Hub(HfApi(endpoint=constants.ENDPOINT, token=token), token, tell)


def _answer_in(error: BaseException | None) -> Response | None:
    """The Hub's answer that an error was made of."""
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            return error.response
        error = error.__cause__ or error.__context__
    return None


def _remedy(status: int) -> str:
    if status == 401:
        return "the token is not valid (any more): run `hf auth login`, or set HF_TOKEN"
    if status in (402, 403):
        return "check the token's permissions and the namespace's plan and storage, and run the same command again"
    return _AGAIN if status in (400, 408, 409, 412, 425, 429) or status >= 500 else "see whether it is still there"
