"""What the Hub refuses is found before anything is uploaded."""

import pytest
from huggingface_hub import ModelCard, ModelCardData

from cards.model_card.front_matter import fields, problems, split

SOUND = """license: other
license_name: modified-mit
license_link: LICENSE
base_model: lab/Tiny
base_model_relation: quantized
library_name: transformers
pipeline_tag: text-generation
language: [en, nob, code]
datasets: [lab/texts, wikitext]
tags: [moe, sixfold]
"""


def card(front_matter: str) -> str:
    return f"---\n{front_matter}---\n# Tiny\n"


def test_a_sound_card_has_no_problems() -> None:
    assert problems(card(SOUND)) == ()


def test_what_huggingface_hub_writes_is_read_the_same() -> None:
    data = ModelCardData(license="mit", library_name="transformers", tags=["a"], base_model="lab/Tiny")
    text = str(ModelCard(f"---\n{data.to_yaml()}\n---\n\nTiny\n"))
    assert problems(text) == ()
    assert fields(text) == data.to_dict()


def test_a_card_is_split_as_huggingface_hub_does() -> None:
    text = card(SOUND) + "\n---\nA line that only looks like one.\n"
    assert split(text)[1] == "# Tiny\n\n---\nA line that only looks like one.\n"
    assert ModelCard(text).text == split(text)[1]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("license: other", "license: apache", "license 'apache' is not one that the Hub knows"),
        ("license: other", "license: Apache-2.0", "license 'Apache-2.0' is not one"),
        ("license: other\n", "", "there is no license"),
        ("license_name: modified-mit\n", "", "license is other, and license_name is missing"),
        ("license_link: LICENSE\n", "", "license is other, and license_link is missing"),
        ("license_link: LICENSE", "license_link: see the repo", "neither a URL nor the name of a file"),
        ("license_name: modified-mit", "license_name: 1.0", "license_name is 1.0, which is not text"),
        ("lab/Tiny", "/models/Tiny", "base_model '/models/Tiny' is not a repository"),
        ("lab/Tiny", "Tiny", "base_model 'Tiny' is not a repository"),
        ("base_model: lab/Tiny\n", "", "base_model_relation is given without a base_model"),
        ("quantized", "pruned", "base_model_relation 'pruned' is not a relation"),
        ("library_name: transformers", "library_name: Transformers", "library_name 'Transformers' is not a library"),
        ("text-generation", "text generation", "pipeline_tag 'text generation' is not a task"),
        ("[en, nob, code]", "[english]", "language 'english' is not a language: give a code of ISO 639"),
        ("[en, nob, code]", "no", "language False is not a language: write it in quotes"),
        ("[en, nob, code]", "xx", "language 'xx' is not a language"),
        ("lab/texts", "./texts.txt", "datasets has './texts.txt'"),
        ("[moe, sixfold]", "moe", "tags is not a list"),
        ("[moe, sixfold]", "[moe, 4]", "tags has 4, which is not text"),
        ("[moe, sixfold]", "[moe, moe]", "tags has moe twice"),
        ("tags: [moe, sixfold]", "license: mit", "the key license is given twice"),
        ("tags: [moe, sixfold]", "tags: [moe", "the front matter is not valid YAML, line 12"),
        ("tags: [moe, sixfold]", "model-index: {}", "model-index is not a list of models"),
    ],
)
def test_a_wrong_field_is_named(old: str, new: str, problem: str) -> None:
    assert old in SOUND
    found = problems(card(SOUND.replace(old, new)))
    assert len(found) == 1
    assert problem in found[0]


@pytest.mark.parametrize("text", ["# Tiny\n", "\n# Tiny\n---\nlicense: mit\n---\n", "---\nlicense: mit\n"])
def test_a_card_without_front_matter_is_no_card(text: str) -> None:
    assert problems(text) == ("the card has no front matter between two lines of ---",)


def test_front_matter_must_be_fields() -> None:
    assert problems(card("- license\n")) == ("the front matter does not consist of `key: value` lines",)


def test_a_card_that_the_hub_would_not_show_is_refused() -> None:
    assert "larger than 10000000 bytes" in problems(card(SOUND) + "x" * 10_000_000)[0]
