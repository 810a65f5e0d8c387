"""Model cards: valid for the hub's own library, every figure in report.json, the same sections for every kind of result."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cerebellum import api
from cerebellum.domain import TensorType
from cerebellum.gguf.memory import ContextUse, footprint
from cerebellum.gguf.model_file import read_model
from cerebellum.keys import sha256_file
from cerebellum.report.file_facts import memory_of, stretches
from cerebellum.report.front_matter import (
    LICENSES,
    datasets_of,
    for_repository,
    front_matter,
    license_of,
    measured_results,
    metric,
    yaml_lines,
)
from cerebellum.testing import Effect, FakeBackend, write_fake_model
from tests.allocation.test_allocation import BLOCKS, allocate, planted
from tools.demo import set_of

hub = pytest.importorskip("huggingface_hub", reason="the hub's library is not installed")
yaml = pytest.importorskip("yaml", reason="no YAML reader here")

SECTIONS = (
    "Run it", "Not tested", "Reproduce it", "Files", "Model details", "On what", "Types, tensor by tensor",
    "Memory by context",
)  # fmt: skip


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    (folder / "text.txt").write_text(" ".join(f"word{i * i % 9973}" for i in range(64 * 60)))
    write_fake_model(folder / "model-F16.gguf", BLOCKS)
    return folder


@pytest.fixture(scope="module")
def single(ground: Path) -> tuple[str, dict[str, Any], Path]:
    """(card, report.json, folder) of an allocation."""
    result = allocate(ground / "model-F16.gguf")
    out = ground / "out"
    (card,) = out.glob("*.card.md")
    assert result.written.path.parent == out
    return card.read_text(), json.loads((out / "report.json").read_text()), out


@pytest.fixture(scope="module")
def chosen(ground: Path) -> tuple[str, dict[str, Any], Path]:
    """Of what the published policy's sibling chose."""
    swap = TensorType("blk.1.ffn_gate.weight", "Q2_K")
    backend = FakeBackend({swap: Effect(kld=0.0001), TensorType("token_embd.weight", "Q3_K"): Effect(kld=0.04)})
    out = ground / "chosen"
    api.choose(
        ground / "model-F16.gguf", out=out, text=ground / "text.txt", ctx=64, blocks=[1], backend=backend,
    )  # fmt: skip
    (card,) = out.glob("*.card.md")
    return card.read_text(), json.loads((out / "report.json").read_text()), out


@pytest.fixture(scope="module")
def ladder(ground: Path) -> tuple[str, dict[str, Any], Path]:
    path, out = ground / "model-F16.gguf", ground / "ladder"
    api.ladder(path, "Q4_K_M,Q2_K", out=out, text=ground / "text.txt", ctx=64, backend=planted(path))
    reports = {folder.name: json.loads((folder / "report.json").read_text()) for folder in out.glob("Q*/")}
    return (out / "README.md").read_text(), reports, out


@pytest.mark.parametrize("kind", ["single", "chosen", "ladder"])
def test_the_hubs_own_library_reads_the_card(kind: str, request: pytest.FixtureRequest) -> None:
    """Metadata and results as its classes have them, and back to the very same YAML data."""
    from huggingface_hub.repocard import ModelCard
    from huggingface_hub.repocard_data import ModelCardData, eval_results_to_model_index, model_index_to_eval_results

    text, _, _ = request.getfixturevalue(kind)
    card = ModelCard(text)
    data = card.data
    assert isinstance(data, ModelCardData) and "gguf" in data.tags and data.pipeline_tag == "text-generation"
    meta = yaml.safe_load(text.split("---\n")[1])
    assert meta["base_model_relation"] == "quantized"
    assert data.eval_results and all(0.0 <= r.metric_value < 1e6 for r in data.eval_results)
    kld = [r for r in data.eval_results if r.metric_type == "kl-divergence"]
    assert len(kld) == (2 if kind == "ladder" else 1)
    for each in kld:
        assert each.metric_args["low"] <= each.metric_value <= each.metric_args["high"]
    name, results = model_index_to_eval_results(meta["model-index"])
    again = eval_results_to_model_index(name, results)
    values = [m["value"] for entry in again for r in entry["results"] for m in r["metrics"]]
    assert sorted(values) == sorted(m["value"] for e in meta["model-index"] for r in e["results"] for m in r["metrics"])
    assert ModelCard(str(card)).data.to_dict() == data.to_dict()


@pytest.mark.parametrize("kind", ["single", "chosen", "ladder"])
def test_every_figure_of_the_card_is_in_the_report(kind: str, request: pytest.FixtureRequest) -> None:
    """In its own precision and unit: nats and thousandths, bytes and MB, shares and percent. Commands and file names are left aside."""
    text, report, out = request.getfixturevalue(kind)
    known = set(figures_of(report))
    known |= {float(n) for path in out.rglob("*.overrides.txt") for n in [path.stat().st_size]}
    front, body = text.split("---\n", 2)[1:]
    for number in yaml_numbers(yaml.safe_load(front)):
        assert any(abs(number - k) <= 1e-9 * max(1.0, abs(k)) for k in known), f"{number} in the front matter"
    missing = [word for word in numbers_in(body) if not is_known(word, known)]
    assert missing == []


def figures_of(value: Any) -> Iterator[float]:
    """Every number of JSON, those inside its sentences too."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        yield float(value)
    elif isinstance(value, str):
        yield from (float(n.replace(",", "")) for n in re.findall(r"\d[\d,]*(?:\.\d+)?", value))
    else:
        items = list(value.values()) if isinstance(value, dict) else value
        yield float(len(items))
        for each in items:
            yield from figures_of(each)


def yaml_numbers(value: Any) -> Iterator[float]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from yaml_numbers(each)


def numbers_in(body: str) -> list[str]:
    """Numbers of prose and tables: no code, no names of types and tensors, no hashes, no list of blocks."""
    body = re.sub(r"(?ms)^```.*?^```$", "", body)
    body = re.sub(r"(?s)## Types, tensor by tensor.*?(?=\n## |\Z)", "", body)
    body = re.sub(r"`[^`]*`|\b[0-9a-f]{64}\b", "", body)
    return re.findall(r"(?<![\w.,-])[+-]?\d[\d,]*(?:\.\d+)?(?![\w])", body)


def is_known(word: str, known: set[float]) -> bool:
    """Whether some figure, in some unit, rounds to the word as it is written; small counts and levels of confidence are words."""
    digits = len(word.partition(".")[2])
    number = float(word.replace(",", ""))
    if number in (95.0, 512.0, 1.0, 0.0, 2.0, 4096.0) or (not digits and abs(number) < 40):
        return True
    scales = (1.0, 1e3, 100.0, 1e-6, 1e-3)
    shifted = {k * s for k in known for s in scales} | {100.0 * (k - 1.0) for k in known}
    return any(abs(abs(number) - abs(k)) <= 0.51 * 10.0**-digits for k in shifted)


@pytest.mark.parametrize("kind", ["single", "chosen", "ladder"])
def test_the_card_says_everything_that_a_reader_asks(kind: str, request: pytest.FixtureRequest) -> None:
    text, _, out = request.getfixturevalue(kind)
    heads = re.findall(r"(?m)^## (.*)$", text)
    assert set(heads) >= set(SECTIONS), set(SECTIONS) - set(heads)
    written = list(out.glob("*.gguf"))
    for path in (p for p in written if "base" not in p.name):
        assert sha256_file(path) in text and f"{path.stat().st_size:,}" in text and path.name in text
        overrides = path.with_name(f"{path.stem}.overrides.txt")
        assert sha256_file(overrides) in text
    for command in (
        "llama-server -hf YOUR-NAME/REPOSITORY",
        "ollama run hf.co/YOUR-NAME/REPOSITORY:",
        "llama-quantize",
    ):
        assert command in text
    assert "Tasks: KL divergence is measured" in text and "hardware:" in text


def test_a_ladder_says_which_file_to_take(ladder: tuple[str, dict[str, Any], Path]) -> None:
    text, reports, _ = ladder
    table = text.split("## Which file to take")[1].split("## ")[0]
    assert all(f"| {label} |" in table for label in reports) and "Take the largest file that" in table
    assert table.count("stock Q") == len(reports)


@pytest.mark.parametrize("kind", ["single", "chosen", "ladder"])
def test_the_picture_lies_beside_the_card(kind: str, request: pytest.FixtureRequest) -> None:
    card, _, folder = request.getfixturevalue(kind)
    (name,) = re.findall(r"^!\[KL divergence against bytes\]\(<(.*)>\)$", card, re.MULTILINE)
    assert (folder / name).is_file()


def test_sizes_count_the_keys_of_the_file(single: tuple[str, dict[str, Any], Path]) -> None:
    """As on the disk: the recipe's file, and the stock file without any keys of ours."""
    card, report, folder = single
    base, recipe = report["controls"]["report"]["rows"][:2]
    assert recipe["file_bytes"] == (folder / Path(report["written"]["path"]).name).stat().st_size
    assert base["file_bytes"] == report["facts"]["base"]["file_bytes"]
    assert recipe["file_bytes"] > base["file_bytes"] + recipe["delta_bytes"]  # the keys
    assert [set_of(row)["bytes"] for row in (base, recipe)] == [base["file_bytes"], recipe["file_bytes"]]
    assert f"| recipe | {recipe['file_bytes'] / 1e6:,.2f} MB |" in card


def test_memory_is_that_of_the_written_file(single: tuple[str, dict[str, Any], Path]) -> None:
    """By the file's own header, not the base's."""
    _, report, out = single
    (path,) = (p for p in out.glob("*.gguf") if "base" not in p.name)
    model = read_model(path)
    for row in report["file"]["memory"]:
        parts = footprint(model, ContextUse(row["ctx"], row["cache_type"], row["cache_type"])).device
        assert (row["weights"], row["cache"], row["total"]) == (parts.weights, parts.cache, parts.total)
    assert report["file"]["details"]["bits_per_weight"] == model.bits_per_weight
    assert {row["ctx"] for row in memory_of(model)} == {2048, 4096}


# -- front matter ------------------------------------------------------------------------------------------------------


def test_the_source_says_license_languages_tags_and_base() -> None:
    said = {
        "general.license": "Apache-2.0", "general.languages": ("en", "de", "not a language"), "general.tags": ("chat", "transformers"),
        "general.repo_url": "https://hub.example/some/model", "tokenizer.chat_template": "x",
        "quantize.imatrix.dataset": "some/calibration",
    }  # fmt: skip
    meta = yaml.safe_load("\n".join(front_matter(said, "m", has_imatrix=True)).strip("-"))
    assert meta["license"] == "apache-2.0" and meta["language"] == ["en", "de"] and meta["base_model"] == "some/model"
    assert {"chat", "imatrix", "conversational", "gguf"} <= set(meta["tags"]) and "transformers" not in meta["tags"]
    assert meta["datasets"] == ["some/calibration"]


def test_names_of_files_are_no_data_sets() -> None:
    named = {"quantize.imatrix.dataset": "texts/calibration.txt", "imatrix.datasets": ("wiki.raw", "owner/set")}
    assert datasets_of(named) == ["owner/set"]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("MIT", {"license": "mit"}),
        ("Some Community License", {"license": "other", "license_name": "some-community-license"}),
        ("\n---\n", {"license": "other", "license_name": "unnamed"}),
    ],
)
def test_a_license_that_the_hub_does_not_know_is_other(said: str, found: dict[str, str]) -> None:
    assert license_of({"general.license": said}) == found and found["license"] in LICENSES
    link = {"general.license": "own", "general.license.link": "https://x.example/license"}
    assert license_of(link)["license_link"] == "https://x.example/license"


def test_a_repository_fills_in_what_nobody_knew(single: tuple[str, dict[str, Any], Path]) -> None:
    card = for_repository(single[0], "some-user/some-model", base="owner/source")
    meta = yaml.safe_load(card.split("---\n")[1])
    assert (meta["quantized_by"], meta["base_model"]) == ("some-user", "owner/source")
    assert "YOUR-NAME" not in card and "llama-server -hf some-user/some-model" in card


@pytest.mark.parametrize("text", ["yes", "1e5", "- a", "a: b", "#", "", "null", "é\n---\n", '"', "a\\b", "2026-01-01"])
def test_yaml_gives_back_what_went_in(text: str) -> None:
    value = {"a": text, "b": [text, {"c": text, "d": {"e": 1.5, "f": 1e-7, "g": 3}}], "h": True, "i": 2e30}
    back = yaml.safe_load("\n".join(yaml_lines(value)))
    assert back["b"][1]["d"]["f"] == pytest.approx(1e-7) and back["h"] is True and back["b"][1]["d"]["g"] == 3
    assert back["a"] == back["b"][0] == back["b"][1]["c"] == text.replace("\n", r"\n")
    entry = measured_results({"name": text, "type": "t"}, [metric("k", text, 1.0, 0.5, 2.0)])
    assert yaml.safe_load("\n".join(yaml_lines({"r": [entry]})))["r"][0]["metrics"][0]["args"]["high"] == 2.0


def test_stretches_of_blocks() -> None:
    assert stretches([3, 0, 1, 2, 7]) == "0–3, 7" and stretches([-1]) == "" and stretches([5]) == "5"
