"""Every command in README.md and docs/ is one that works: all are good usage, and each runs on the bundled model.

What takes long, or needs an engine, runs under the marker `engines`.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli import main as cli

PROJECT = Path(__file__).parents[1]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_MAKE = ("all-formats", "format", "verify", "evaluate", "report", "publish", "prune")
"""Targets that call sixfold; the others set up tests, which are what runs here."""
CHEAP = ("inspect", "plan", "budget", "recipes", "report", "card")


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each `sixfold` and `make` command of a page's blocks, as a shell would have them."""
    for language, block in _FENCE.findall(page.read_text()):
        for line in block.splitlines() if language == "" else ():
            if line.startswith((".venv/bin/sixfold ", "make ")):
                yield shlex.split(line, comments=True)


def called(words: list[str]) -> list[list[str]]:
    """What a command of the documentation calls: arguments of sixfold, of a make target as make would run it."""
    if words[0] != "make":
        return [words[1:]]
    if words[1] not in _MAKE:
        return []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    shown = subprocess.run(
        ["make", "-n", "-o", ".venv/.ready", *words[1:]],
        cwd=PROJECT, capture_output=True, text=True, check=True, env=environment,
    ).stdout  # fmt: skip
    text = shown.replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip().startswith(".venv/bin/sixfold ")]
    return [shlex.split(line)[1:] for line in lines]


EVERY = [(page, words) for page in PAGES for words in commands(page)]


def test_the_pages_have_commands_and_every_page_is_reached_from_the_readme() -> None:
    assert len(EVERY) > 15
    readme = (PROJECT / "README.md").read_text()
    for page in (PROJECT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in readme, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_what_is_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("words", [words for _, words in EVERY], ids=" ".join)
def test_every_command_is_good_usage(words: list[str]) -> None:
    """Names of commands, of options and of their values; nothing is run."""
    for arguments in called(words):
        command = cli.cli.get_command(click.Context(cli.cli), arguments[0])
        assert command is not None, arguments
        with command.make_context(arguments[0], arguments[1:]) as context:
            assert context.params


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in, with what the documentation names: the project's files, and two texts of one's own."""
    for name in ("demo", "docs", "recipes"):
        (tmp_path / name).symlink_to(PROJECT / name)
    own = "A sentence of one's own is long enough to fill some windows of tokens. " * 3000
    (tmp_path / "my chats.jsonl").write_text("\n".join(f'{{"text": "{own}"}}' for _ in range(9)))
    recipe = next(text for _, text in _FENCE.findall((PROJECT / "docs/recipes.md").read_text()) if "keep:" in text)
    (tmp_path / "fp8-attention-kept.yaml").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cheap() -> Iterator[list[str]]:
    """Those that a reader gets an answer of at once; of a published config.json it takes longer."""
    every = [arguments for _, words in EVERY for arguments in called(words)]
    for number, arguments in enumerate(every):
        published = any(word.startswith("docs/configs/") for word in arguments)
        if arguments[0] in CHEAP and not published and arguments not in every[:number]:
            yield arguments


@pytest.mark.parametrize("arguments", list(cheap()), ids=" ".join)
def test_a_cheap_command_runs(arguments: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 0, capsys.readouterr().err


@pytest.mark.engines
def test_every_command_runs_one_after_the_other(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a reader would go through the pages, after `make all-formats`, which begins the README."""
    assert cli.run(["export", "demo/minimax-m2-4.6m-REAP-6", "all-formats"]) in (0, 3)
    for page, words in EVERY:
        for arguments in called(words):
            code = cli.run(arguments)
            assert code in (0, 3), (page, words, capsys.readouterr().err)
