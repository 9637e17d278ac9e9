"""Whether a chat template is a program that can be read at all."""


def syntax_error(template: str) -> str | None:
    """What is wrong with a Jinja template, and in which line; None where it can be read, or uses tags of extensions
    that engines have and Jinja has not."""
    from jinja2 import Environment, TemplateSyntaxError

    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except TemplateSyntaxError as error:
        unknown = (error.message or "").startswith("Encountered unknown tag")
        return None if unknown else f"line {error.lineno}: {error.message}"
    except RecursionError:
        return "it is nested too deeply"
    return None
