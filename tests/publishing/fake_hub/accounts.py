"""The Hub's routes for accounts, organizations and the validation of cards."""

import re

import yaml

from tests.publishing.fake_hub.server import Handler, Refused, route


@route("GET", "/api/whoami-v2")
def whoami(http: Handler) -> None:
    if http.account is None:
        raise Refused(401, "Invalid username or password.")
    http.answer(http.account.as_data())


@route("GET", "/api/organizations/(?P<name>[^/]+)/overview")
def organization(http: Handler, name: str) -> None:
    known = {org for account in http.hub.tokens.values() for org in account.orgs} | set(http.hub.other_organizations)
    if name not in known:
        raise Refused(404, "This organization does not exist")
    http.answer({"name": name, "fullname": name, "avatarUrl": "", "type": "org"})


@route("POST", "/api/validate-yaml")
def validate_card(http: Handler) -> None:
    content = http.json["content"]
    if not content.startswith("---"):
        return http.answer({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    try:
        fields = yaml.safe_load(content.split("---")[1]) or {}
    except yaml.YAMLError as error:
        return http.answer({"errors": [{"message": str(error)}], "warnings": []}, status=400)
    wrong = []
    if fields.get("license") == "other" and not fields.get("license_name"):
        wrong.append({"message": '"license_name" is required when "license" is "other"'})
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", fields.get("base_model", "a/b")):
        wrong.append({"message": '"base_model" must be a model id'})
    return http.answer({"errors": wrong, "warnings": []}, status=400 if wrong else 200)
