"""`fit`, `try`, `modelfile`, `commands`, `lint-template`, `doctor` and the grouped help, as a user runs them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from cerebellum import bundled
from cerebellum.errors import EngineDied
from cerebellum.results.health import Native
from cerebellum.testing import FakeBackend
from tests.cli.command import cerebellum, refused
from tests.llamacpp import tiny
from tests.templates import CHATML


def test_fit_says_up_to_which_context(tmp_path: Path) -> None:
    """The largest context that JSON names fits, and the rows say which do."""
    done = cerebellum(tmp_path, "fit", bundled.MODEL, "--vram", "60MB", "--margin", "0", "--no-check", "--json")
    fit = json.loads(done.stdout)
    assert 0 < fit["largest"] <= 2048 == fit["trained"]
    assert all(row["fits"] == (row["device"]["total"] <= 60_000_000) for row in fit["rows"])


def test_fit_says_how_many_layers_fit_where_not_all_do(tmp_path: Path) -> None:
    from cerebellum.gguf.memory import ContextUse, footprint
    from cerebellum.gguf.model_file import read_model

    words = ("fit", bundled.MODEL, "--vram", "45MB", "--margin", "0", "--no-check", "--ctx", "2048")
    n = json.loads(cerebellum(tmp_path, *words, "--json").stdout)["layers_that_fit"]
    fitting, more = (
        footprint(read_model(bundled.MODEL), ContextUse(2048, n_gpu_layers=k)).device.total for k in (n, n + 1)
    )
    assert 0 < n < 15 and fitting <= 45_000_000 < more
    assert f"{n} of 15 layers fit with them" in cerebellum(tmp_path, *words).stdout


def test_fit_asks_llama_cpp(tmp_path: Path) -> None:
    done = cerebellum(tmp_path, "fit", bundled.MODEL, "--vram", "1GB", "--ctx", "1024")
    assert "up to 2,048 tokens" in done.stdout and "1,024 tokens fit" in done.stdout
    assert "llama.cpp itself" in done.stdout and "off by" not in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fit", bundled.MODEL, "--vram", "much"), "--vram"),
        (("fit", bundled.MODEL, "--vram", "200MB"), "margin"),
        (("run", bundled.MODEL, "--out", "o", "--fit-ctx", "64"), "--vram"),
        (("run", bundled.MODEL, "--out", "o", "--vram", "4GB", "--size", "3GB"), "two sizes"),
        (("run", bundled.MODEL, "--out", "o", "--vram", "4GB", "--fit-ctx", "99999"), "trained"),
        (("run", bundled.MODEL, "--out", "o", "--vram", "310MB", "--fit-ctx", "2048"), "--fit-ctx"),
    ],
)
def test_what_is_no_size_is_refused(tmp_path: Path, words: tuple[Any, ...], message: str) -> None:
    refused(cerebellum(tmp_path, *words), 2, message)
    assert not list(tmp_path.iterdir())


def test_run_takes_its_size_from_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What `run --vram` hands over as the size is what fits beside cache and buffers."""
    from cerebellum import api
    from cerebellum.errors import InputError
    from cerebellum.gguf.memory import ContextUse, file_bytes_for
    from cerebellum.gguf.model_file import read_model

    given: dict[str, Any] = {}

    def allocate(model: Path, **options: Any) -> Any:
        given.update(options)
        raise InputError("enough")

    monkeypatch.setattr(api, "allocate", allocate)
    monkeypatch.setattr(api, "estimate", allocate)
    refused(
        cerebellum(tmp_path, "run", bundled.MODEL, "-o", "o", "-f", "t", "--vram", "360MB", "--fit-ctx", "1024"),
        2,
        "enough",
    )
    assert int(given["size"]) == file_bytes_for(read_model(bundled.MODEL), 60_000_000, ContextUse(1024))
    assert "vram" not in given and "fit_ctx" not in given


def test_try_answers_side_by_side(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "m.gguf", chat_template=CHATML)
    done = cerebellum(
        tmp_path,
        "try",
        model,
        "once",
        "--against",
        tiny.llama(tmp_path / "n.gguf", 1),
        "-n",
        "5",
        "-c",
        "256",
        "-t",
        "1",
        "--json",
    )
    first, second = json.loads(done.stdout)
    assert (first["model"], first["chat"], second["model"], second["chat"]) == ("m.gguf", True, "n.gguf", False)
    assert 0 < first["n_tokens"] <= 5 and first["n_prompt"] > second["n_prompt"]
    alone = json.loads(cerebellum(tmp_path, "try", model, "once", "-n", "5", "-c", "256", "-t", "1", "--json").stdout)
    assert alone[0]["text"] == first["text"]


def test_try_says_that_a_prompt_is_too_long(tmp_path: Path) -> None:
    refused(cerebellum(tmp_path, "try", tiny.llama(tmp_path / "m.gguf"), "x " * 300, "-c", "64", "-t", "1"), 4, "--ctx")


def test_modelfile_is_written_beside_the_model(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "m.gguf", chat_template=CHATML)
    assert cerebellum(tmp_path, "modelfile", model, "-o", "Modelfile").returncode == 0
    text = (tmp_path / "Modelfile").read_text(encoding="utf-8")
    assert text.startswith("FROM ./m.gguf\nTEMPLATE") and 'PARAMETER stop "<|im_end|>"' in text
    refused(cerebellum(tmp_path, "modelfile", model, "-o", "Modelfile"), 3, "--force")


def test_commands_are_lines_of_a_shell(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "a b;rm.gguf", chat_template=CHATML)
    lines = json.loads(cerebellum(tmp_path, "commands", model, "--cache-type-v", "q8_0", "--json").stdout)
    words = shlex.split(lines["llama-server"])
    assert words[words.index("-m") + 1] == str(model) and words[words.index("-c") + 1] == "512"
    assert words[words.index("-ctv") + 1] == "q8_0" and words[words.index("-fa") + 1] == "on"


@pytest.mark.parametrize(("template", "code"), [(CHATML, 0), (CHATML.replace("message['content']", "'x'"), 2), ("", 0)])
def test_lint_ends_with_2_for_errors(tmp_path: Path, template: str, code: int) -> None:
    done = cerebellum(tmp_path, "lint-template", tiny.llama(tmp_path / "m.gguf", chat_template=template))
    assert done.returncode == code and ("error: " in done.stdout) == bool(code)


def test_doctor_finds_this_machine_well(tmp_path: Path) -> None:
    checks = json.loads(cerebellum(tmp_path, "doctor", "--json").stdout)
    states = {(c["group"], c["what"]): c["state"] for c in checks}
    assert states["llama.cpp", "computes"] == "ok" and states["packages", "llama-cpp-python"] == "ok"
    assert "broken" not in states.values()


def test_doctor_is_read_in_80_columns_and_its_lines_are_copied_whole(tmp_path: Path) -> None:
    """A shell reads the lines of a command, each but the last ended by a backslash, as the one line that JSON and the docs have."""
    from cerebellum.verbs.doctor import BUILDS, build_command

    printed = cerebellum(tmp_path, "doctor").stdout
    assert max(map(len, printed.replace(str(tmp_path), ".").splitlines())) <= 80  # a long path is never cut
    joined = printed.replace("\\\n", "")
    assert all(
        shlex.split(build_command(flags)) in map(shlex.split, lines_with(joined, "CMAKE_ARGS"))
        for flags in BUILDS.values()
    )


def lines_with(text: str, word: str) -> list[str]:
    return [line for line in text.splitlines() if word in line]


class Dying(FakeBackend):
    """A build whose kernels end the process."""

    def respond(self, *_: Any, **__: Any) -> Any:
        raise EngineDied("opening: llama.cpp's process died (SIGILL)")


def test_a_build_whose_kernels_die_is_broken(tmp_path: Path) -> None:
    from cerebellum.verbs.doctor import examine

    checks = examine(Dying(), lambda: Native("b", ("CUDA0: a card",), ("AVX2",), True), tmp_path)
    broken = [c for c in checks if c.state == "broken"]
    assert [c.what for c in broken] == ["computes", "computes on a GPU"]
    assert "SIGILL" in broken[0].text and "GGML_NATIVE=off" in broken[0].mend


def test_a_llama_cpp_that_can_t_be_loaded_is_told(tmp_path: Path) -> None:
    from cerebellum.verbs.doctor import examine

    def fails() -> Native:
        raise EngineDied("asking: no libllama.so")

    broken = [c for c in examine(FakeBackend(), fails, tmp_path) if c.state == "broken"]
    assert [(c.what, "--force-reinstall" in c.mend) for c in broken] == [("loads", True)]


def test_help_lists_every_command_once_in_its_section(tmp_path: Path) -> None:
    from cerebellum.cli import SECTIONS, main

    named = [name for names in SECTIONS.values() for name in names]
    assert sorted(named) == sorted(set(named)) and set(named) <= set(main.commands)
    text = cerebellum(tmp_path, "--help").stdout
    assert all(f"{heading}:" in text for heading in SECTIONS)
    assert all(text.count(f"\n  {name} ") == 1 for name in main.commands)


def test_plain_text_of_an_instruct_model_is_told(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(tiny.text(400), encoding="utf-8")
    words = ("--text", text, "--ctx", "64", "--chunks", "2", "-t", "1")
    chat, plain = tiny.llama(tmp_path / "chat.gguf", chat_template=CHATML), tiny.llama(tmp_path / "plain.gguf")
    assert "--chat" in cerebellum(tmp_path, "perplexity", chat, *words).stderr
    assert "--chat" not in cerebellum(tmp_path, "perplexity", plain, *words).stderr


def test_faults_of_a_template_are_told_before_it_is_measured_through(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": tiny.text(20)}, {"role": "assistant", "content": tiny.text(40)}]
    (tmp_path / "talk.jsonl").write_text(f"{json.dumps(talk)}\n{json.dumps(talk)}\n", encoding="utf-8")
    words = ("--chat", "--text", "talk.jsonl", "--ctx", "512", "-t", "1")
    faulty = CHATML.replace("{% if add_generation_prompt %}", "{% if false %}")
    told = {
        name: "generation prompt"
        in cerebellum(
            tmp_path, "perplexity", tiny.llama(tmp_path / f"{name}.gguf", chat_template=source), *words
        ).stderr
        for name, source in (("sound", CHATML), ("faulty", faulty))
    }
    assert told == {"sound": False, "faulty": True}
