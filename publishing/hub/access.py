"""Whether the token has the permissions that publishing needs, checked before anything is done."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from publishing.hub.requests import Hub
from sixfold.errors import SixfoldError

_WRITING_ROLES = ("admin", "write", "contributor")
_NEEDED = {"repo.write": "write to repositories", "collection.write": "edit collections"}


def check_access(hub: Hub, org: str) -> str:
    """Name of the account. Raises SixfoldError where its token is not valid or may not write, or where `org` does not
    exist or the account may not write there."""
    account = hub.ask("ask whose token this is", hub.api.whoami)
    tokens = f"{constants.ENDPOINT}/settings/tokens"
    name, token = str(account["name"]), (account.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise SixfoldError(
            f"the token of {name} may read only", f"make one that may write at {tokens}, and run `hf auth login`"
        )
    if org != name:
        _check_membership(hub, account, org)
    if token.get("role") == "fineGrained":
        missing = [words for right, words in _NEEDED.items() if right not in _granted(token, org)]
        if missing:
            raise SixfoldError(
                f"the fine-grained token of {name} may not {' or '.join(missing)} of {org}", f"allow it at {tokens}"
            )
    return name


def _check_membership(hub: Hub, account: Mapping[str, Any], org: str) -> None:
    membership = next((found for found in account.get("orgs", []) if found["name"] == org), None)
    if membership is None:
        mine = ", ".join([str(account["name"]), *(str(found["name"]) for found in account.get("orgs", []))])
        if not _exists(hub, org):
            raise SixfoldError(f"there is no organization {org} on the Hub", f"create it, or give --org one of {mine}")
        raise SixfoldError(
            f"{account['name']} is not a member of {org}", f"ask its admins, or give --org one of {mine}"
        )
    role = membership.get("roleInOrg", "write")
    if role not in _WRITING_ROLES:
        raise SixfoldError(
            f"{account['name']} has the role {role} in {org} and may not write there", "ask its admins for more"
        )


def _exists(hub: Hub, org: str) -> bool:
    def look() -> bool:
        try:
            hub.api.get_organization_overview(org)
        except HfHubHTTPError as error:
            if error.response.status_code == 404:
                return False
            raise
        return True

    return hub.ask(f"look for the organization {org}", look)


def _granted(token: Mapping[str, Any], org: str) -> set[str]:
    """Permissions of a fine-grained token for an entire namespace."""
    grants = token.get("fineGrained") or {}
    scoped = [
        scope.get("permissions", [])
        for scope in grants.get("scoped", [])
        if scope.get("entity", {}).get("type") in ("user", "org") and scope["entity"].get("name") == org
    ]
    return {permission for permissions in [grants.get("global", []), *scoped] for permission in permissions}
