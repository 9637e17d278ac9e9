"""What an artifact contradicts by itself, and no comparison of weights would show: one damage of each kind."""

from pathlib import Path

import pytest

from tests.verification.artifacts import Artifacts
from tests.verification.corpus.changes import Damage
from tests.verification.corpus.rare import RARE
from tests.verification.damage import copy_folder, copy_gguf
from verification.structure.chat_template import syntax_error
from verification.structure.folder_structure import check_structure, open_subject
from verification.structure.gguf.structure import check_gguf_structure, open_gguf_subject

KINDS = {
    "rope base in rope_parameters alone",
    "epsilon zero",
    "types of one layer too few",
    "experts chosen as text",
    "a key twice in config.json",
    "group of another format",
    "cache scales that nothing declares",
    "weights as Mistral names them",
    "two tokens of one number",
    "a merge of tokens that are not there",
    "template that calls what is not there",
    "correction bias of the other layer",
    "another embedding length",
    "head length halved",
    "one token twice",
}
DAMAGES = [damage for damage in RARE if damage.name in KINDS]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: f"{damage.variant}-{damage.name}".replace(" ", "-"))
def test_a_contradiction_is_named(damage: Damage, artifacts: Artifacts, tmp_path: Path) -> None:
    sound = artifacts[damage.variant]
    if sound.is_dir():
        path = copy_folder(sound, tmp_path / "damaged")
        damage.do(path)
        found = check_structure(open_subject(path, None))
    else:
        path = copy_gguf(sound, tmp_path / "damaged.gguf")
        damage.do(path)
        found = check_gguf_structure(open_gguf_subject(path, None))
    assert any(damage.is_named(finding.where) for finding in found), found


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no') }}{{ strftime_now('%d') }}{% for i in range(3) %}{% endfor %}",
        "{% macro shown(x) %}{{ x }}{% endmacro %}{{ shown(messages) }}",
        "{% if strftime_today is defined %}{{ strftime_today() }}{% endif %}",
        "{{ messages | from_json }}{% generation %}{% endgeneration %}",
        "{% set ns = namespace(found=false) %}{{ messages[0].content.strip() }}",
    ],
)
def test_what_templates_may_call(template: str) -> None:
    assert syntax_error(template) is None


def test_what_no_engine_has() -> None:
    assert syntax_error("a\n{{ no_such(messages) }}") == "it calls no_such, which engines do not have"
