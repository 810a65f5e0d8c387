"""What strangers named is shown, never obeyed: oracles are a shell, a YAML reader, JSON, and Python's own tables of characters."""

from __future__ import annotations

import html.parser
import json
import re
import subprocess
import unicodedata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from cerebellum import api, quoting
from cerebellum.domain import TensorType
from cerebellum.testing import Effect, FakeBackend, write_fake_model

#: OSC 52 writes the clipboard, CSI 2J clears, U+202E turns the line round, U+2028 ends it, U+200B hides.
HOSTILE = (
    "a\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m\n\r\tforged: line\u202e\u2066\u2028\u200b\x7f"
    "|`*<img src=x onerror=alert(1)>](http://x) $(touch X) 'q' é 漢"
)


def is_hidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


@given(st.text(alphabet=st.characters()))
@example(HOSTILE)
def test_nothing_hidden_reaches_a_terminal(text: str) -> None:
    """One line, no control character, no mark of direction; what isn't hidden stays as it is."""
    shown = quoting.printable(text)
    assert not any(map(is_hidden, shown)) and len(shown) <= 10 * quoting.MESSAGE_LENGTH + 50
    if not any(map(is_hidden, text)) and len(text) <= quoting.MESSAGE_LENGTH:
        assert shown == text


def test_escapes_are_those_that_everyone_reads() -> None:
    assert quoting.printable("\x1b[2J\n\t\x9b\u202eé\U000e0001") == r"\x1b[2J\n\t\x9b\u202eé\U000e0001"


def test_a_long_name_is_cut() -> None:
    assert quoting.name("x" * 20_000_000) == "x" * 200 + "… (20,000,000 characters)"


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_strict_json_is_json_and_says_the_same(value: Any) -> None:
    """But for numbers that are none; and nothing hidden is in it but ends of lines."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = quoting.strict_json(value)
    text.encode()
    assert not any(is_hidden(c) for c in text if c != "\n")
    plain = json.loads(json.dumps(value), parse_constant=lambda _: None)
    assert json.loads(text, parse_constant=refuse) == plain


@given(
    st.lists(
        st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
        min_size=1,
        max_size=4,
    )
)
@example([HOSTILE.replace("\0", ""), "", "-rf", "$(touch X)", "`x`", "a\nb", "\\'"])
def test_a_shell_reads_the_words_that_were_meant(words: list[str]) -> None:
    """bash itself, given the line, sees exactly these words; and the line is one line."""
    line = quoting.shell_line(words)
    assert not any(map(is_hidden, line))
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"],
        capture_output=True,
        check=True,
        env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
    )
    assert done.stdout == b"".join(word.encode() + b"\0" for word in words)


def test_a_file_is_never_an_option() -> None:
    assert quoting.shell_file("-rf.gguf") == "./-rf.gguf" and quoting.shell_file("m.gguf") == "m.gguf"


@given(st.text())
@example(HOSTILE)
@example("null")
@example("a: b # c")
def test_yaml_reads_one_string(text: str) -> None:
    assert yaml.safe_load(f"key: {quoting.yaml_string(text)}\n") == {"key": quoting.printable(text)}


class Tags(html.parser.HTMLParser):
    """Notes every tag."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)


@given(st.text(alphabet="ab<>&|`*_[]()!~\\\n\x1b\"'=/", max_size=60))
@example(HOSTILE)
def test_markdown_holds_no_html_no_link_and_no_code(text: str) -> None:
    shown = quoting.markdown(text)
    parser = Tags()
    parser.feed(shown)
    assert parser.tags == [] and "](" not in shown and "][" not in shown and "\n" not in shown
    assert re.search(r"(?<!\\)(\\\\)*[`*~]", shown) is None
    assert re.search(r"(?<!\\)(\\\\)*\|", quoting.markdown_cell(text)) is None


def test_plain_prose_stays_readable_markdown() -> None:
    """Names of tensors, intervals and differences need no escapes."""
    for text in ("blk.1.ffn_gate at Q3_K_M", "+1.00 [-2.00, +4.00]", "p = 0.05; 12 % of 4,096", "a > b"):
        assert quoting.markdown(text) == text


@given(st.text(alphabet="ab`\n ", max_size=30))
def test_code_can_not_end_early(text: str) -> None:
    """The fence is longer than any run of backticks inside."""
    span, block = quoting.code_span(text), quoting.code_block(text)
    longest = max(map(len, re.findall("`+", text)), default=0)
    assert len(re.match("`+", span)[0]) > longest if text else True  # type: ignore[index]
    assert len(re.match("`+", block)[0]) > longest and block.count("\n") == text.count("\n") + 2  # type: ignore[index]


# -- the whole way -----------------------------------------------------------------------------------------------------

NAME = "m$(touch X)\x1b]52;c;eA==\x07\nbase_model: evil\u202e<img src=x onerror=alert(1)> `a`|b"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a model, texts and a folder with hostile names."""
    here = tmp_path_factory.mktemp("hostile")
    for text, n in (("search", 97), ("report", 89)):
        (here / f"{text}{NAME.replace('/', '')}").write_text(
            " ".join(f"{text}{i * i % (100 * n + 3)}" for i in range(64 * 20))
        )
    model = write_fake_model(here / f"{NAME}.gguf")
    swap = TensorType("blk.1.ffn_gate.weight", "Q2_K")
    backend = FakeBackend({swap: Effect(kld=0.0001), TensorType("token_embd.weight", "Q3_K"): Effect(kld=0.04)})
    api.choose(
        model, out=here / "out", text=here / f"search{NAME}", report_text=here / f"report{NAME}", ctx=64, blocks=[1], backend=backend,
        command=("cerebellum", "run", str(model)),
    )  # fmt: skip
    return here / "out"


def test_no_written_text_holds_anything_hidden(folder: Path) -> None:
    files = [p for p in folder.iterdir() if p.suffix in (".md", ".json", ".svg", ".txt")]
    assert len(files) >= 5  # the card has its picture as PNG or as SVG
    for path in files:
        text = path.read_bytes().decode("utf-8")
        assert not any(is_hidden(c) for c in text if c != "\n"), path.suffix
        assert not re.search(r"(?m)^base_model:", text)


def test_the_picture_is_xml_without_foreign_elements(folder: Path) -> None:
    root = ElementTree.fromstring((folder / "sweep.svg").read_text())
    assert {e.tag.rpartition("}")[2] for e in root.iter()} <= {"svg", "title", "rect", "text", "line", "circle"}


def test_report_and_card_hold_no_html(folder: Path) -> None:
    for path in folder.glob("*.md"):
        parser = Tags()
        outside = re.sub(r"(?ms)^(`{3,})\w*$.*?^\1$", "", path.read_text())
        outside = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", outside)
        parser.feed(re.sub(r"\]\(<[\w%.~-]*>\)", "", outside))  # a link's address, each odd character of it as %XX
        assert parser.tags == []


def test_the_cards_front_matter_and_commands_are_ours_alone(folder: Path, tmp_path: Path) -> None:
    """YAML has our keys; the shell's block, run by bash with a stand-in for llama-cli, opens this very file and runs nothing else."""
    (card,) = folder.glob("*.card.md")
    text = card.read_text()
    assert set(yaml.safe_load(text.split("---\n")[1])) == {
        "base_model_relation", "quantized_by", "pipeline_tag", "library_name", "tags", "model-index",
    }  # fmt: skip
    (command,) = re.findall(r"(?m)^llama-cli .*$", text)
    script = f"llama-cli() {{ printf '%s\\0' \"$@\"; }}; {command}"
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        check=True,
        cwd=tmp_path,
        env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
    )
    option, file, _ = done.stdout.decode().split("\0")
    assert option == "-m" and (folder / file).is_file() and list(tmp_path.iterdir()) == []
