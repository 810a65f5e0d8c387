"""The child process that renders chat templates: a line of JSON in, a line of JSON out. A template is a stranger's program.

Run as ``python -m cerebellum.text.rendering_child``. Jinja2's sandbox keeps a template from files and from Python; it bounds neither time
nor
memory. Here the kernel does: memory of this process, and processor time of each request. `cerebellum.text.rendering` starts it and waits.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from jinja2 import Template, nodes
    from jinja2.parser import Parser

#: What ``strftime_now`` tells a template.
TODAY = datetime(2025, 1, 1)
#: Compiled templates that are kept.
_KEPT = 8


def compiled(source: str) -> Template:
    """The template as Hugging Face's ``apply_chat_template`` compiles it. Raises what jinja2 raises."""
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks the assistant's words for training: passed through."""

        tags = {"generation"}  # noqa: RUF012 jinja2's own way

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": TODAY.strftime}
    return environment.from_string(source)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without jinja2's escapes for HTML, as Hugging Face writes it."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def rendered(template: Template, values: dict[str, Any], most: int) -> str:
    """The text. Raises `MemoryError` where it is longer than ``most`` characters."""
    pieces, length = [], 0
    for piece in template.generate(**values):
        pieces.append(piece)
        length += len(piece)
        if length > most:
            raise MemoryError(f"writes more than {most:,} characters")
    text = "".join(pieces)
    text.encode()
    return text


def answer(request: dict[str, Any], templates: dict[str, Template]) -> dict[str, str]:
    """``text``; or ``refused``, why the template refuses these messages; or ``broken``, what is wrong with the template itself."""
    source = request["source"]
    try:
        if source not in templates:
            if len(templates) >= _KEPT:
                templates.clear()
            templates[source] = compiled(source)
    except MemoryError:
        return {"broken": "needs more memory than it may have"}
    except Exception as error:  # jinja2's own, and what Python's compiler raises
        return {"broken": f"can't be read ({_said(error)})"}
    if request["values"] is None:
        return {"text": ""}
    try:
        return {"text": rendered(templates[source], request["values"], request["most"])}
    except MemoryError as error:
        return {"broken": str(error) or "needs more memory than it may have"}
    except Exception as error:  # a template can make Python raise anything
        return {"refused": _said(error)}


def _said(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:300]


def limit_memory(n_bytes: int) -> None:
    """Of this process, where the system can."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))


def limit_time(seconds: int) -> None:
    """Processor time from now on; the kernel ends this process at its end."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        until = int(time.process_time()) + seconds + 1
        resource.setrlimit(resource.RLIMIT_CPU, (until, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def main() -> None:
    """Answer until the pipe closes."""
    import jinja2.sandbox  # noqa: F401 before memory is limited

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    limit_memory(int(sys.argv[1]))
    templates: dict[str, Template] = {}
    for line in sys.stdin.buffer:
        request = json.loads(line)
        limit_time(request["seconds"])
        sys.stdout.write(json.dumps(answer(request, templates)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
