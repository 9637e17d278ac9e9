"""Values of JSON in sentences."""

import json
from typing import Any


def shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) < 60 else text[:57] + "..."
