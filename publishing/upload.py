"""Sends one repository: complete, checked and tagged, however often it was interrupted before."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import escape

from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import logging

from publishing.hub.remote import CARD, CHANGELOG, FIGURES, MAIN
from publishing.hub.requests import Hub
from publishing.plan import Plan
from publishing.upload_progress import watched
from sixfold.artifact.workspace import write_if_changed
from sixfold.errors import SixfoldError
from sixfold.name_lists import some
from sixfold.progress import Progress

_RESUMED_BY_XET = {
    "HF_XET_DATA_SESSION_XORB_METADATA_FLUSH_INTERVAL": "1s",
    "HF_XET_DATA_SESSION_XORB_METADATA_FLUSH_MAX_COUNT": "1",
}
"""hf_xet notes on disk which blocks have arrived, so that the next process does not send them again. Its own intervals
are longer: what a process sends after the last note and before it is killed is sent for nothing."""


def create_repository(hub: Hub, repo: str) -> None:
    """Private, and empty; nothing where it is there already."""

    def create() -> None:
        try:
            hub.api.create_repo(repo, private=True)
        except HfHubHTTPError as error:
            if error.response.status_code != 409 or not hub.api.repo_exists(repo):
                raise

    hub.ask(f"create {repo}", create)


def send(hub: Hub, repo: str, plan_now: Callable[[], Plan], progress: Progress) -> Plan:
    """Send what is missing, and see that it arrived. Returns the plan of the finished repository.

    plan_now: reads the Hub's state again. A commit of upload_folder holds everything or nothing (up to 250 files), so
    readers of main see one release or the next. Whatever was lost, doubled or damaged on the way shows in the next
    plan, as the Hub's own checksums are compared; that plan is sent in turn.
    """

    def attempt() -> Plan:
        plan = plan_now()
        if plan.is_done:
            return plan
        _upload(hub, plan, progress)
        after = plan_now()
        if not after.is_done:
            wrong = some([*after.to_send, *after.to_delete])
            raise RuntimeError(f"{wrong} did not arrive unchanged")
        return after

    return hub.ask(f"upload {repo}", attempt)


def _upload(hub: Hub, plan: Plan, progress: Progress) -> None:
    folder, files = plan.publication.folder, plan.publication.files
    write_if_changed(folder / CARD, plan.card.encode())
    if plan.figures:
        write_if_changed(folder / FIGURES, plan.figures.encode())
    write_if_changed(folder / CHANGELOG, plan.changelog.encode())
    assert plan.remote is not None
    sizes = {files[name].path.resolve(): files[name].bytes for name in plan.to_send if name in files}
    for name, value in _RESUMED_BY_XET.items():
        os.environ.setdefault(name, value)
    with quiet(), watched(plan.repo, sizes, progress):
        hub.api.upload_folder(
            repo_id=plan.repo,
            folder_path=folder,
            commit_message=_message(plan),
            revision=MAIN,
            parent_commit=plan.remote.head,
            allow_patterns=[escape(name) for name in plan.to_send],
            delete_patterns=[escape(name) for name in plan.to_delete] or None,
        )


def _message(plan: Plan) -> str:
    if not plan.entry:
        return "Update the card" if set(plan.to_send) <= {CARD, FIGURES} else "Update the description of the files"
    variants = ", ".join(artifact.variant for artifact in plan.publication.artifacts)
    return f"{plan.tag}: {variants}"


def tag_release(hub: Hub, plan: Plan) -> bool:
    """Tag main as the release that its changelog names, unless it is; returns whether it was not.

    Raises SixfoldError where the Hub refuses it.
    """
    if plan.is_tagged:
        return False

    def tag() -> None:
        if plan.tag in {tag.name for tag in hub.api.list_repo_refs(plan.repo).tags}:
            return
        assert plan.remote is not None
        hub.api.create_tag(plan.repo, tag=plan.tag, revision=plan.remote.head)

    hub.ask(f"tag {plan.repo} as {plan.tag}", tag)
    return True


def make_public(hub: Hub, repo: str) -> None:
    """Nothing where it is already."""

    def change() -> None:
        if hub.api.model_info(repo).private:
            hub.api.update_repo_settings(repo, private=False)

    hub.ask(f"make {repo} public", change)


def check_ours(plan: Plan) -> None:
    """Raises SixfoldError if a repository of that name exists that this project did not make."""
    remote = plan.remote
    if remote is None or remote.is_of(plan.publication.model):
        return
    raise SixfoldError(
        f"{remote.repo} exists and holds {some(sorted(remote.files))}, but no manifest of {plan.publication.model},"
        " so it was made by somebody else",
        "publish under another --org, export again under another --name, or rename or delete that repository",
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without huggingface_hub's warnings of every retry, which quote signed URLs."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
