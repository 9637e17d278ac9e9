"""Whether a chat template is a program that can be read at all."""

import re

_ENGINES_HAVE = {"raise_exception", "strftime_now"}


def syntax_error(template: str) -> str | None:
    """What is wrong with a Jinja template, and in which line; None where it can be read, or uses tags of extensions
    that engines have and Jinja has not."""
    from jinja2 import Environment, TemplateAssertionError, TemplateSyntaxError
    from jinja2.meta import find_undeclared_variables
    from jinja2.nodes import Call, Name

    environment = Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        program = environment.parse(template)
        called = {call.node.name for call in program.find_all(Call) if isinstance(call.node, Name)}
        called &= find_undeclared_variables(program) - environment.globals.keys() - _ENGINES_HAVE
        for name in sorted(called):
            if not re.search(rf"\b{name}\s+is\s+(not\s+)?(un)?defined\b", template):
                return f"it calls {name}, which engines do not have"
    except TemplateAssertionError:  # filters and tests that engines add
        return None
    except TemplateSyntaxError as error:
        unknown = (error.message or "").startswith("Encountered unknown tag")
        return None if unknown else f"line {error.lineno}: {error.message}"
    except RecursionError:
        return "it is nested too deeply"
    return None
