"""Which part of an answer is the program, and what is run of it."""

import re

RULE = (
    "the first fenced code block that defines the function, else the first one, else the whole answer; it is run behind"
    " the problem's own text, or as its continuation where it does not define the function"
)
_FENCE = re.compile(r"^[ \t]*(```+|~~~+)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)


def program_of(answer: str, prompt: str, entry_point: str) -> str:
    """The program of an answer in words, thinking left out before. A block that is not closed ends with the answer."""
    blocks = [block for _, block in _FENCE.findall(answer)]
    code = next((block for block in blocks if _defines(block, entry_point)), None)
    if code is None:
        code = blocks[0] if blocks else answer
    # The problem's own text is a program too: its imports and helpers, and a function of nothing but its docstring.
    return f"{prompt}\n\n{_outdented(code)}" if _defines(code, entry_point) else prompt + code


def completion_of(answer: str, prompt: str, stops: tuple[str, ...]) -> str:
    """The program of a raw completion: up to the first text that ends it, where the endpoint did not see to that."""
    ends = [at for stop in stops if (at := answer.find(stop)) >= 0]
    return prompt + answer[: min(ends, default=len(answer))]


def _defines(code: str, name: str) -> bool:
    return re.search(rf"^[ \t]*(async[ \t]+)?def[ \t]+{re.escape(name)}\b", code, re.MULTILINE) is not None


def _outdented(code: str) -> str:
    """Without the indentation of its first line, where the whole block stands in a list."""
    lines = code.split("\n")
    first = next((line for line in lines if line.strip()), "")
    margin = first[: len(first) - len(first.lstrip())]
    if not margin or not all(line.startswith(margin) for line in lines if line.strip()):
        return code
    return "\n".join(line.removeprefix(margin) for line in lines)
