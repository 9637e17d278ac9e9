"""YAML that somebody wrote by hand, or to do harm: plain values, without aliases and tags."""

from typing import Any

import yaml

_DEEPEST = 32
_LONGEST = 1 << 20
"""Bytes; a recipe has a few hundred."""


class PlainLoader(yaml.SafeLoader):
    """Refuses what no file here needs and what does harm: aliases (which multiply), tags, dates (which are texts here),
    and deep nesting. All errors are yaml.YAMLError, with the place where there is one."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not supported here", mark)
        self._level = getattr(self, "_level", 0) + 1
        if self._level > _DEEPEST:
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, f"it is nested more than {_DEEPEST} levels deep", mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self._level -= 1

    def fetch_more_tokens(self) -> None:
        try:
            super().fetch_more_tokens()
        except (ValueError, OverflowError):
            raise yaml.scanner.ScannerError(None, None, "it holds an escape of no character", self.get_mark()) from None

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node.tag not in _TAGS:
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"the tag !!{node.tag.removeprefix('tag:yaml.org,2002:')} is not known here",
                node.start_mark,
            )
        if isinstance(node, yaml.ScalarNode) and any("\ud800" <= letter <= "\udfff" for letter in node.value):
            what = "half of a surrogate pair is no character"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError, OverflowError, TypeError):
            what = f"{str(node.value)[:40]!r} is no value of the tag {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark) from None


_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")}

PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":merge", ":value"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str) -> Any:
    """Raises yaml.YAMLError for all that is wrong with the text."""
    loader = loader_of(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def loader_of(text: str) -> PlainLoader:
    """Raises yaml.YAMLError. A loader that the caller disposes of, for those who want nodes with their places."""
    if len(text) > _LONGEST:
        raise yaml.YAMLError(f"it has {len(text)} characters; at most {_LONGEST} are read")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise yaml.YAMLError("it is not UTF-8")
    return PlainLoader(text)


def line_and_problem(error: yaml.YAMLError) -> tuple[int | None, str]:
    """Where the text is wrong, counted from 1, None where that is not known, and what is wrong there."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return None, str(error).splitlines()[0]
    mark = error.problem_mark
    return None if mark is None else mark.line + 1, str(error.problem)
