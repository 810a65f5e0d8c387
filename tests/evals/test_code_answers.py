"""Replies made programs: known solutions in every form that models wrap them in come out as working programs."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cerebellum.evals.code_answers import EMPTY, INDENTED, NO_CODE, program
from cerebellum.evals.sandbox import Sandbox
from cerebellum.evals.sandbox.boxes import working_box

ROOT = Path(__file__).resolve().parents[2]
HUMANEVAL = ROOT.parent / "shared" / "data" / "humaneval" / "HumanEval.jsonl.gz"
WORLD = ROOT / "src" / "cerebellum" / "bundled" / "questions" / "functions.jsonl"

Form = Callable[[str, str], str]
AFTER = "\n\nprint('hi')\nassert f(1) == 2\nif __name__ == '__main__':\n    main()\n# more\ndef other("


def indented(code: str) -> str:
    return "".join("   " + line for line in code.splitlines(keepends=True))


PLAIN: dict[str, Form] = {
    "the body": lambda _p, c: c,
    "with what comes to its mind after it": lambda _p, c: c + AFTER,
    "Windows line ends": lambda _p, c: c.replace("\n", "\r\n"),
    "the prompt again": lambda p, c: p + c,
    "in a fence": lambda p, c: f"```python\n{p}{c}```",
}
CHAT: dict[str, Form] = {
    "a fence": lambda p, c: f"Sure!\n\n```python\n{p}{c}\n```\nIt adds.",
    "an open fence without language": lambda p, c: f"Sure!\n\n```\n{p}{c}",
    "the body in a fence": lambda _p, c: "The body:\n```py\n" + c.strip("\n") + "\n```",
    "another block before": lambda p, c: f"First:\n```\npip install x\n```\nthen\n```python\n{p}{c}```",
    "a use of it after": lambda p, c: f"```python\n{p}{c}\n\nprint(1)\n```\nExample:\n```python\nprint(2)\n```",
    "a fence in a list": lambda p, c: "1. So:\n   ```python\n" + indented(p + c) + "\n   ```",
    "no fence": lambda p, c: f"Here is the function.\n\n{p}{c}",
}
FORMS = {**{name: (form, False) for name, form in PLAIN.items()}, **{name: (form, True) for name, form in CHAT.items()}}


def rows() -> list[dict[str, Any]]:
    """HumanEval's where it is there, and the small world's."""
    found = WORLD.read_text(encoding="utf-8").splitlines()
    if HUMANEVAL.exists():
        found += gzip.decompress(HUMANEVAL.read_bytes()).decode().splitlines()
    return [json.loads(line) for line in found]


@pytest.mark.parametrize("name", FORMS)
def test_known_solutions_come_out_in_every_form(name: str) -> None:
    """All of them compile and define their function; what stood behind it is gone; one in 66 is run, others in each form."""
    form, chat = FORMS[name]
    sandbox = Sandbox(box) if (box := working_box()) else None
    offset = 5 * list(FORMS).index(name)
    for number, row in enumerate(rows(), offset):
        answer = program(row["prompt"], form(row["prompt"], row["canonical_solution"]), row["entry_point"], chat)
        assert not answer.problem and not answer.note
        compile(answer.source, row["task_id"], "exec")
        assert f"def {row['entry_point']}(" in answer.source
        assert "print('hi')" not in answer.source and "other(" not in answer.source
        if sandbox and number % 66 == 0:
            assert sandbox.run(answer.source, row["test"], row["entry_point"]).reason == "passed", row["task_id"]


PROMPT = 'import math\n\ndef helper(x):\n    return x\n\ndef f(x):\n    """Adds one."""\n'


def test_a_first_line_that_lost_its_indentation_is_repaired_and_told() -> None:
    """Only where that makes it valid."""
    answer = program(PROMPT, "y = x + 1\n    return y\n", "f", False)
    assert answer.note == INDENTED and answer.source.endswith("    y = x + 1\n    return y\n")
    assert program(PROMPT, "    y = x + 1\n    return y\n", "f", False).note == ""
    broken = program(PROMPT, "y = (\n    return y\n", "f", False)
    assert broken.note == "" and broken.source == PROMPT + "y = (\n    return y\n"


def test_a_lost_indentation_shows_even_where_the_prompts_function_is_whole_without_it() -> None:
    """There the reply would stand behind the function: a return outside it."""
    prompt = 'def f(x):\n    import math\n    """Round up."""\n'
    answer = program(prompt, "return math.ceil(x)\n", "f", False)
    assert answer.note == INDENTED and answer.source.endswith('"""\n    return math.ceil(x)\n')


def test_what_is_before_the_function_stays_and_helpers_after_it_too() -> None:
    """A chat that writes the function alone still has the prompt's imports and helpers; its own helpers are kept."""
    answer = program(
        PROMPT,
        "```python\ndef f(x):\n    return late(helper(x)) + 1\n\ndef late(x):\n    return x\n\nprint(f(1))\n```",
        "f",
        True,
    )
    space: dict[str, Any] = {}
    exec(answer.source, space)
    assert space["f"](1) == 2 and "import math" in answer.source and "print" not in answer.source


ADDS = '    """Adds one."""\n    y = x + 1\n    return y\n'
BODY = ADDS.partition("\n")[2]
STUB = PROMPT.rpartition("\n\n")[2]
WHOLE = STUB + BODY
HARD = {
    "a closing fence without an opening one": (BODY + "```\nThis adds one.\n", False),
    "a fenced example behind the body": (BODY + "\nUsage:\n```python\nprint(f(1))\n```\n", False),
    "another version behind the body": (BODY + "\n\ndef f(x):\n    return 99\n", False),
    "the question again behind the body": (BODY + "\n\n" + PROMPT, False),
    "reading what nobody types": (BODY + "\nz = int(input())\nprint(f(z))\n", False),
    "importing itself": (BODY + "\nfrom solution import f as g\n", False),
    "a constant behind it": ("    return x + ONE\n\nONE = int('1')\nprint(f(1))\n", False),
    "a line separator in a string": ("    s = 'a\u2028b'\n" + BODY + "\nprint(1)\n", False),
    "a form feed": (BODY.replace("\n", "\n\x0c\n", 1) + "\nprint(1)\n", False),
    "a fence in a string": ('    s = """\n```\n"""\n' + BODY, False),
    "an import from the future": ("```python\nfrom __future__ import annotations\n" + WHOLE + "```", True),
    "the question fenced first": (f"You gave:\n```python\n{STUB}```\nSo:\n```python\n{WHOLE}```", True),
    "a stub fenced first": (f"You gave:\n```python\n{STUB}    pass\n```\nSo:\n```python\n{WHOLE}```", True),
    "a command fenced first": (f"```bash\npip install x\n```\n```python\n{BODY}```", True),
    "a fence closed on the code's line": (f"```python\n{WHOLE.rstrip()}```\nDone.", True),
    "a string that reaches the margin": ('```python\n    s = """\na"""\n' + BODY + "```", True),
    "prose that begins as an import": ("from what you say it adds.\n\n" + WHOLE, True),
    "a waved fence": (f"~~~python\n{WHOLE}~~~", True),
    "a byte-order mark": ("\ufeff" + WHOLE, False),
    "a byte-order mark in a fence": (f"```python\n\ufeff{WHOLE}```", True),
    "no-break spaces": (BODY.replace(" ", "\u00a0"), False),
    "no-break spaces in a fence": (f"```python\n{WHOLE}```".replace("    ", "\u00a0\u00a0 \u00a0"), True),
    "marks without width": (f"```python\n{WHOLE}```".replace("x + 1", "x\u200b + 1"), True),
    "wide spaces": (BODY.replace(" + ", "\u3000+\u2009"), False),
    "imports in a first block": (f"```python\nimport operator\n```\nthen\n```python\n{STUB}    return operator.add(x, 1)\n```", True),
    "imports in a block behind": (f"```python\n{STUB}    return add(x, 1)\n```\nwith\n```python\nfrom operator import add\n```", True),
    "helpers in another block": (
        f"```python\nimport operator\nONE = 1\ndef more(x):\n    return operator.add(x, ONE)\nprint(more(0))\n```\n"
        f"```python\n{STUB}    return more(x)\n```\nUse:\n```python\nresult = f(1)\nprint(result)\n```", True),
    "imports first and the body alone": ("```python\nimport operator\n```\n```python\n    return operator.add(x, 1)\n```", True),
    "a session in a fence": (f"```python\n>>> {WHOLE.replace(chr(10), chr(10) + '... ')}\n>>> f(1)\n2\n```", True),
    "a session without a fence": (f"So:\n\n>>> import math\n>>> {WHOLE.replace(chr(10), chr(10) + '... ')}\n>>> f(1)\n2\n", True),
    "a session of IPython": (f"```\nIn [1]: {WHOLE.replace(chr(10), chr(10) + '   ...: ')}\nIn [2]: f(1)\nOut[2]: 2\n```", True),
}  # fmt: skip


def test_odd_spaces_in_a_string_stay() -> None:
    """They are what it says."""
    source = program("def f(x):\n", "\u00a0   return x.replace('\u00a0', ' ')\n", "f", False).source
    space: dict[str, Any] = {}
    exec(source, space)
    assert space["f"]("a\u00a0b") == "a b"


@pytest.mark.parametrize("name", HARD)
def test_hard_replies_come_out_working(name: str) -> None:
    """Each is run: it adds one, and what stood behind it isn't there to be run."""
    answer = program(PROMPT, HARD[name][0], "f", HARD[name][1])
    space: dict[str, Any] = {}
    exec(compile(answer.source, name, "exec"), space)
    assert space["f"](1) == 2 and (answer.problem, answer.note) == ("", "")


@pytest.mark.parametrize(
    ("reply", "chat"),
    [
        ("   y = x + 1\n    return y\n", False),
        ("return x + 1\n\nprint(f(1))", False),
        ("y = x + 1\n    return y", True),
        ("return x + 1", True),
        ("```python\ny = x + 1\n    return y\n```", True),
    ],
)
def test_lost_indentation_is_repaired_wherever_it_was_lost(reply: str, chat: bool) -> None:
    """Also a part of it, also in a chat; and it is told each time."""
    answer = program(PROMPT, reply, "f", chat)
    space: dict[str, Any] = {}
    exec(answer.source, space)
    assert space["f"](1) == 2 and answer.note == INDENTED


def test_a_body_without_any_indentation_is_not_repaired() -> None:
    """Where it ends is a guess, so it fails as written."""
    reply = "y = x + 1\nreturn y\n"
    answer = program(PROMPT, reply, "f", False)
    assert (answer.source, answer.note) == (PROMPT + reply, "")


def test_helpers_of_helpers_are_kept_and_what_nothing_needs_is_not() -> None:
    """Behind the function, whatever their order."""
    late = "\nimport pytest\n\ndef a(x):\n    return b(x)\n\ndef test_f():\n    pytest.fail()\n\ndef b(x):\n    return ONE + x\n\nONE = 1\n"
    source = program(PROMPT, "    return a(x)\n" + late, "f", False).source
    space: dict[str, Any] = {}
    exec(source, space)
    assert space["f"](1) == 2 and "pytest" not in source


def test_tabs_are_left_as_they_are() -> None:
    """A body in tabs alone is valid."""
    source = program("def f(x):\n", "\tif x:\n\t\treturn 1\n\treturn 2\n", "f", False).source
    space: dict[str, Any] = {}
    exec(source, space)
    assert space["f"](0) == 2


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("reply", ["", " \n\n\t", "\r\n"])
def test_an_empty_reply_is_called_that(reply: str, chat: bool) -> None:
    """Apart from a wrong one."""
    assert program(PROMPT, reply, "f", chat).problem == EMPTY


def test_prose_alone_is_no_code() -> None:
    """In a chat; as a continuation it is a program that fails by itself."""
    assert program(PROMPT, "I can't do that.", "f", True).problem == NO_CODE
    assert program(PROMPT, "I can't do that.", "f", False).problem == ""


def test_a_docstring_alone_is_no_solution() -> None:
    """Cutting never leaves a function without a body that then returns None by accident of being valid."""
    answer = program(PROMPT, "\n\nprint(1)\n", "f", False)
    assert "print(1)" in answer.source


@pytest.mark.parametrize(
    "reply", ["```", "```python\n", "`" * 50, "\x00", "def f(x):\n" * 500, "(" * 5000, "    " * 3000 + "x"]
)
def test_no_reply_breaks_it(reply: str) -> None:
    """Whatever was written, an answer comes out."""
    for chat in (False, True):
        program(PROMPT, reply, "f", chat)
