"""Line ends, byte-order marks, pipes in the place of texts; patterns without end; importance matrices of odd counts; names with a dot."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import pytest

from cerebellum.errors import InputError, ModelFileError, OverrideError, TextError
from cerebellum.files import companions
from cerebellum.gguf.imatrix import load_imatrix
from cerebellum.gguf.model_file import read_model
from cerebellum.gguf.override_file import read_overrides
from cerebellum.gguf.overrides import parse_overrides, resolve
from cerebellum.gguf.patterns import names_with
from cerebellum.keys import sha256_file, stem_of
from cerebellum.progress import Silent
from cerebellum.testing import write_fake_model
from cerebellum.text.chat import Conversation, Conversations
from cerebellum.text.corpus import read_text
from cerebellum.verbs.text import odd_marks

NAMES = [f"blk.{i}.{role}.weight" for i in range(40) for role in ("attn_q", "ffn_gate_exps", "ffn_down")] + [
    "output.weight"
]


def test_windows_line_ends_and_marks_in_a_text_are_told() -> None:
    """In a plain text and in what conversations say; nothing is told of a sound one."""
    assert odd_marks("a.txt", "one\ntwo\n", Silent()) == []
    ends, mark = odd_marks("a.txt", "\ufeffone\r\ntwo\r\n", Silent())
    assert "2 lines of a.txt end as Windows' do (CRLF)" in ends and "byte-order mark (BOM)" in mark
    talk = Conversation(
        "here", ({"role": "user", "content": "a\r\nb"}, {"role": "assistant", "content": None, "tool_calls": [1]})
    )
    (said,) = odd_marks("c.jsonl", Conversations("c.jsonl", "", (talk,)), Silent())
    assert said.startswith("1 lines of the messages of c.jsonl")


def test_an_override_file_with_a_mark_or_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "o.txt"
    path.write_bytes(b"ffn_down=Q4_K\r\nattn_q=Q8_0\r\n")
    assert [str(o) for o in read_overrides(path)] == ["ffn_down=Q4_K", "attn_q=Q8_0"]
    path.write_bytes(b"\xef\xbb\xbfffn_down=Q4_K\n")
    with pytest.raises(OverrideError, match=r"byte-order mark \(BOM\)"):
        read_overrides(path)


def test_utf16_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("some words", encoding="utf-16")
    with pytest.raises(TextError, match="UTF-16"):
        read_text(tmp_path / "t.txt")


def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    start = time.monotonic()
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        for read in (read_text, read_model, load_imatrix, sha256_file, read_overrides):
            with pytest.raises(InputError, match="no regular file"):
                read(path)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "pattern",
    ["([a-z0-9_.]+)+!", "([a-z.0-9_]|[a-z_.])*!", "(.*)*x!", ".*.*.*.*.*.*.*!", "(?:(?:[a-z]+\\.?)+_?)+!",
     "(.?){30}(.?){30}[a-z]+!",
     "(?:(.+)+!|x)", "(.|[a-z]|\\w){1,60}!"],
)  # fmt: skip
def test_a_pattern_without_end_is_refused_in_time(pattern: str, tmp_path: Path) -> None:
    start = time.process_time()
    with pytest.raises(OverrideError, match="too many ways"):
        names_with(pattern, NAMES)
    with pytest.raises(OverrideError, match="too many ways"):
        resolve(parse_overrides(f"{pattern}=Q8_0"), read_model(write_fake_model(tmp_path / "m.gguf")))
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    "pattern",
    ["ffn_down", "^blk\\.(\\d+)\\.ffn_.*_exps\\.weight$", "blk\\.([0-9]|1[0-9]|2[0-3])\\.attn_(q|k|v)", "(\\.weight|\\.bias)?$",
     "blk\\.(1|2|3)+\\.", ".*(attn|ffn).*(gate|down).*", "[^b].*", "(?!blk)out", "(?:[a-z]+_)+exps", "b.k\\.\\d{1,2}\\.a", "ffn_(?=down)",
     "((w?e?i?g?h?t?)*)*!", "(a|a|[a-z])*!", "(?=(w+)+!)x"],
)  # fmt: skip
def test_patterns_of_recipes_are_searched_as_before(pattern: str) -> None:
    """The oracle is `re` itself."""
    import re

    assert names_with(pattern, NAMES) == tuple(name for name in NAMES if re.search(pattern, name))


def test_counts_below_zero_are_refused(tmp_path: Path) -> None:
    def legacy(calls: int, value: float, chunks: int) -> Path:
        data = (
            struct.pack("<ii", 1, 1) + b"a" + struct.pack("<ii4f", calls, 4, *[value] * 4) + struct.pack("<i", chunks)
        )
        (tmp_path / "i.dat").write_bytes(data)
        return tmp_path / "i.dat"

    assert load_imatrix(legacy(2, 1.0, 3)).entries["a"].tolist() == [0.5] * 4
    for wrong in ((-2, 1.0, 3), (2, -1.0, 3), (2, 1.0, -3)):
        with pytest.raises(ModelFileError, match=r"i\.dat can't be used"):
            load_imatrix(legacy(*wrong))


@pytest.mark.parametrize(
    ("name", "stem"),
    [("Model.v1.5.gguf", "Model.v1.5"), ("Model.v1.5", "Model.v1.5"), ("m.GGUF", "m"), ("m", "m"), (".gguf", ".gguf")],
)
def test_a_dot_in_a_name_is_kept(name: str, stem: str) -> None:
    assert stem_of(Path("folder") / name) == stem
    assert companions(Path(name)) == (Path(f"{stem}.overrides.txt"), Path(f"{stem}.card.md"))
