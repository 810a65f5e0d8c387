"""What an allocation leaves: five lines, tables of 80 columns, pictures, card, JSON of a documented shape; the ladder; the estimate."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sqlite3
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click import Option

from cerebellum import api, bundled
from cerebellum.allocation.damage import Anchor
from cerebellum.allocation.sizes import parse_ladder
from cerebellum.cli.allocation import show_allocation, show_estimate, show_ladder
from cerebellum.cli.run import demo, run
from cerebellum.errors import InputError
from cerebellum.gguf.labels import label_of, labelled
from cerebellum.gguf.model_file import read_model
from cerebellum.progress import Silent
from cerebellum.report.accuracy import accuracy_of, left_out, rank_correlation
from cerebellum.report.allocation_card import allocation_card, note_on
from cerebellum.report.allocation_lines import few, five_lines
from cerebellum.report.allocation_pictures import recipes_picture
from cerebellum.report.allocation_tables import controls_grid, in_percent, shuffled_limits
from cerebellum.report.estimate import duration, estimate_lines
from cerebellum.report.front_matter import base_model, front_matter
from cerebellum.report.views import Recipe
from cerebellum.results.allocation import Allocation, AllocationLadder
from cerebellum.stats.verdicts import Verdict
from cerebellum.testing import write_fake_model
from cerebellum.verbs.allocation.options import DEFAULT_LIKE
from cerebellum.verbs.inputs import Texts, conversations_unasked
from tests.allocation.test_allocation import BLOCKS, allocate, planted

DOCS = Path(__file__).resolve().parents[2] / "docs" / "reference"


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "text.txt").write_text(" ".join(f"word{i * i % 9973}" for i in range(64 * 60)))
    write_fake_model(folder / "model-F16.gguf", BLOCKS)
    return folder


@pytest.fixture(scope="module")
def result(ground: Path) -> Allocation:
    return allocate(ground / "model-F16.gguf")


@pytest.fixture(scope="module")
def ladder(ground: Path) -> AllocationLadder:
    path = ground / "model-F16.gguf"
    return api.ladder(
        path, "Q4_K_M,Q2_K,3.9bpw", out=ground / "ladder", text=ground / "text.txt", ctx=64, backend=planted(path)
    )


# -- page, card, pictures ----------------------------------------------------------------------------------------------


def test_five_lines_come_first_everywhere(ground: Path, result: Allocation) -> None:
    lines = five_lines(result)
    heads = ["Size", "KL divergence", "As good as", "Verdict", "Next"]
    assert [line.split(":")[0] for line in lines] == heads
    page = (ground / "out" / "report.md").read_text().splitlines()
    assert [line.split(":")[0] for line in page[2:7]] == [f"1. {head}" for head in heads]
    ratio = result.controls.ratio
    assert f"{100 * ratio.estimate:.0f} % of the stock" in lines[1] and "improves on" in lines[3]
    assert json.loads((ground / "out" / "report.json").read_text())["verdict"][:5] == lines


@pytest.mark.parametrize("verdict", [Verdict.UNDECIDED, Verdict.NO_DIFFERENCE, Verdict.DAMAGES])
def test_what_the_share_shows_and_nats_do_not_is_not_claimed(result: Allocation, verdict: Verdict) -> None:
    """One chunk far from the others: every chunk's share improves, the mean difference may be chance. No line contradicts the table."""
    stock, recipe, *others = result.controls.comparison.rows
    assert recipe.from_base is not None and result.controls.ratio.high < 1.0
    judgement = replace(recipe.from_base.judgement, verdict=verdict)
    row = replace(recipe, from_base=replace(recipe.from_base, judgement=judgement))
    comparison = replace(result.controls.comparison, rows=(stock, row, *others))
    doubtful = replace(result, controls=replace(result.controls, comparison=comparison))
    size, _, _, said, then = five_lines(doubtful)
    assert "improves on" not in said and controls_grid(doubtful).rows[1][3] == verdict
    assert "more text" in then and note_on(doubtful).startswith("not told from the stock")
    if verdict == Verdict.NO_DIFFERENCE:
        assert said.startswith("Verdict: no detectable difference from the stock Q3_K_M file (95 %)")
    else:
        assert f": improves by its share of KL divergence, {verdict} in nats a token" in said
    assert (
        "improves on" in five_lines(result)[3]
        and note_on(result).startswith("better")
        and size == five_lines(result)[0]
    )


def test_shuffled_recipes_that_are_worse_stand_above_the_recipe(result: Allocation) -> None:
    """They are measured on other chunks than the table's: these three are easier, so that all shares of the stock file's are lower."""
    mean = result.controls.comparison.rows[1].summary.divergence
    assert mean is not None
    share = 0.5 * result.controls.ratio.estimate
    easier = replace(result.controls.shuffled, recipe=share, others=(1.02 * share, 1.3 * share))
    limits = shuffled_limits(replace(result, controls=replace(result.controls, shuffled=easier)))
    assert limits == pytest.approx((1.02 * mean.mean.estimate, 1.3 * mean.mean.estimate))
    none = replace(easier, recipe=0.0)  # a recipe without divergence: shares of the stock file's are all there is
    low, _ = shuffled_limits(replace(result, controls=replace(result.controls, shuffled=none))) or (0.0, 0.0)
    assert low > 0.0


def test_a_share_under_one_percent_keeps_a_digit() -> None:
    """A recipe of 0.3 % of the stock file's divergence isn't one of none."""
    shares = (0.0, 0.0029, 0.0095, 0.05, 0.854, 12.0, -0.3, math.inf, -math.inf, math.nan)
    assert [in_percent(share) for share in shares] == ["0", "0.3", "1", "5", "85", "1200", "0", "?", "?", "?"]
    assert [few(share) for share in (0.0, 0.0029, 0.05, 0.21, 1.1)] == ["0.00", "0.0029", "0.05", "0.21", "1.10"]


def test_a_ladder_without_its_questions_is_refused_at_once(ground: Path) -> None:
    """Not once for each size, as a size that can't be had."""
    path, out, told = ground / "model-F16.gguf", ground / "unasked", Told()
    bench: dict[str, Any] = {"bench": "hellaswag", "bench_data": ground, "progress": told}
    with pytest.raises(InputError, match="hellaswag_val_full"):
        api.ladder(path, "Q2_K,Q4_K_M", out=out, text=ground / "text.txt", ctx=64, backend=planted(path), **bench)
    assert not told.notes


def test_the_terminal_has_80_columns(ground: Path, result: Allocation, capsys: pytest.CaptureFixture[str]) -> None:
    """But names of files, which stay whole; no line ends in blanks; the numbers are the result's."""
    show_allocation(result, ground / "out")
    printed = capsys.readouterr().out
    long = [line for line in printed.splitlines() if len(line) > 80 and " " in line.strip()]
    assert long == [] and not re.search(r"[ \t]$", printed, re.MULTILINE)
    assert printed.startswith("Size: ") and "Recipe and controls" in printed
    show_allocation(result, ground / "out", wide=True)
    wide = capsys.readouterr().out
    assert "types of the stock file" in wide and "types of the stock file" not in printed


@pytest.mark.usefixtures("result")
def test_the_json_has_the_documented_keys(ground: Path) -> None:
    """``docs/reference/report.md`` lists every key of the first two levels, and no other."""
    report = json.loads((ground / "out" / "report.json").read_text())
    assert report["format"] == 1 and report["kind"] == "allocation"
    assert documented("report.md") == keys_of(report, open_ended=("recipe", "facts", "noise", "written", "bench"))


@pytest.mark.usefixtures("result")
def test_the_map_has_the_documented_keys(ground: Path) -> None:
    value = json.loads((ground / "out" / "sensitivity.json").read_text())
    found = keys_of(value, open_ended=("model", "imatrix", "reference", "text", "settings", "stock_bytes", "spreads"))
    assert documented("sensitivity.md") == found


def keys_of(value: dict[str, Any], open_ended: tuple[str, ...]) -> set[str]:
    found = set(value)
    for key, held in value.items():
        inner = held[0] if isinstance(held, list) and held and isinstance(held[0], dict) else held
        if isinstance(inner, dict) and key not in open_ended:
            found |= {f"{key}.{name}" for name in inner}
    return found


def documented(page: str) -> set[str]:
    rows = re.findall(r"^\| `([a-z_.]+)` \|", (DOCS / page).read_text(), re.MULTILINE)
    assert len(rows) == len(set(rows))
    return set(rows)


def test_the_pictures_are_svg_of_the_recipe(ground: Path, result: Allocation) -> None:
    heat = ET.parse(ground / "out" / "allocation.svg")
    cells = [e.text or "" for e in heat.iter("{http://www.w3.org/2000/svg}title")][1:]
    types = [result.recipe.types(result.base.model.types)[n] for n in result.table.names]
    key = sorted(set(types))
    assert sorted(cells) == sorted([*types, *key])
    drawn = ET.parse(ground / "out" / "prediction.svg")
    marks = [e for e in drawn.iter() if e.tag.endswith("circle")]
    assert len(marks) == 2  # the kept one, and its place in the key, are told apart


def test_the_card_is_yaml_and_says_what_was_not_tested(result: Allocation) -> None:
    card = allocation_card(result)
    _, front, body = card.split("---\n", 2)
    yaml = pytest.importorskip("yaml", reason="no YAML reader here")
    meta = yaml.safe_load(front)
    assert (
        "base_model" not in meta
        and "# base_model: OWNER/NAME" in front
        and "gguf" in meta["tags"]
        and meta["quantized_by"]
    )
    assert "## Not tested" in body and "llama-quantize" in body and result.written.sha256 in body


def test_front_matter_takes_what_the_metadata_says_and_nothing_breaks_it() -> None:
    yaml = pytest.importorskip("yaml", reason="no YAML reader here")
    said = {"general.license": "apache-2.0", "general.repo_url": "https://hub.example/some/model"}
    meta = yaml.safe_load("\n".join(front_matter(said, "m")).strip("-"))
    assert (meta["license"], meta["base_model"]) == ("apache-2.0", "some/model")
    evil = {"general.license": 'x"\n---\n# injected: [', "general.repo_url": "https://h/a/b\n- c"}
    meta = yaml.safe_load("\n".join(front_matter(evil, "m")).strip("-"))
    assert set(meta) == {
        "base_model_relation", "quantized_by", "license", "license_name", "pipeline_tag", "library_name", "tags",
    }  # fmt: skip
    assert base_model(evil) == "OWNER/NAME"


# -- accuracy ----------------------------------------------------------------------------------------------------------


def test_accuracy_of_pairs_by_hand() -> None:
    found = accuracy_of([(1.0, 2.0), (1.0, 0.5), (1.0, 8.0), (-1.0, 1.0)])
    assert (found.n_anchors, found.n_positive) == (4, 3)
    assert found.factor == pytest.approx(2.0) and found.bias == pytest.approx(2.0)
    assert math.isnan(accuracy_of([(-1.0, 1.0)]).factor)


def test_rank_correlation_by_hand() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 100, 1000, 10000]) == pytest.approx(1.0)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert math.isnan(rank_correlation([1, 2, 3], [5, 5, 5]))


def test_an_anchor_is_predicted_without_itself(result: Allocation) -> None:
    """Every measured effect appears once; the prediction, mostly from the tensor's role, ranks effects better than weight error alone."""
    found = left_out(result)
    assert sum(role.n_anchors for role in found.roles.values()) == sum(
        1 for a in result.anchors.anchors if a.error_change
    )
    assert found.model > found.weight_error > 0.0
    assert math.isnan(found.parameters)  # all of one size
    assert isinstance(result.anchors.anchors[0], Anchor)


# -- ladder ------------------------------------------------------------------------------------------------------------


def test_a_ladder_is_one_study_one_set_of_anchors_and_files_apart(ground: Path, ladder: AllocationLadder) -> None:
    results = ladder.results
    names = [r.written.path.name for r in results]
    sizes = [r.written.file_bytes for r in results]
    assert sizes == sorted(sizes) and all(r.written.path.stat().st_size <= r.limit for r in results)
    assert [label_of(n) for n in names] == list(ladder.labels) and len(set(ladder.labels)) == 3
    assert {"Q2_K", "Q4_K_M"} < set(ladder.labels)
    assert sum(r.anchors.n_trials > 0 for r in results) == 1
    assert len({r.anchors.model.misfit for r in results}) == 1
    assert [p.name for p in (ground / "ladder").glob("*.sqlite")] == ["study.sqlite"]
    for label in ladder.labels:
        assert (ground / "ladder" / label / "report.md").exists()


def test_the_ladders_picture_has_every_point(ground: Path, ladder: AllocationLadder) -> None:
    drawn = ET.parse(ground / "ladder" / "ladder.svg")
    words = [e.text or "" for e in drawn.iter() if e.tag.endswith("text")]
    assert all(words.count(label) >= 1 for label in [*ladder.labels, *(r.ftype for r in ladder.stock)])
    circles = [e for e in drawn.iter() if e.tag.endswith("circle")]
    assert len(circles) == len(ladder.results) + 1  # and the legend's
    places = [(float(e.get("cx", 0)), float(e.get("cy", 0))) for e in circles[1:]]
    assert places == sorted(places) and [y for _, y in places] == sorted(
        y for _, y in places
    )  # larger, and lower on paper
    report = json.loads((ground / "ladder" / "report.json").read_text())
    assert [r["file_bytes"] for r in report["recipes"]] == [r.written.file_bytes for r in ladder.results]


def test_a_ladder_prints_within_80_columns(ladder: AllocationLadder, capsys: pytest.CaptureFixture[str]) -> None:
    show_ladder(ladder, Path("out"))
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if len(line) > 80 and " " in line.strip()] == []


def test_what_is_no_ladder_is_refused(ground: Path) -> None:
    for sizes, words in (
        ("Q2_K", "several"),
        ("Q2_K,Q2_K", "several"),
        ("Q2_K,soup", "unknown file type"),
        ("Q2_K,xbpw", "bits a weight"),
    ):
        with pytest.raises(InputError, match=words):
            parse_ladder(api.names(sizes))
    with pytest.raises(InputError, match="leave out --size"):
        api.ladder(ground / "model-F16.gguf", "Q2_K,Q4_K_M", out=ground / "no", like="Q2_K", text=ground / "text.txt")
    assert [t.bits for t in parse_ladder(("3.9bpw", "4bpw"))] == [3.9, 4.0]


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("world-gemma4-F16", "world-gemma4-cerebellum-Q3_K_M"),
        ("Model.Q8_0", "Model-cerebellum-Q3_K_M"),
        ("SmolLM2-135M-Instruct-UD-Q4_K_XL-v2", "SmolLM2-135M-Instruct-v2-cerebellum-Q3_K_M"),
        ("BF16", "model-cerebellum-Q3_K_M"),
        ("plain", "plain-cerebellum-Q3_K_M"),
    ],
)
def test_names_carry_one_label_at_the_end(stem: str, name: str) -> None:
    found = labelled(stem, "Q3_K_M")
    assert found == name and label_of(f"{found}.gguf") == "Q3_K_M"
    assert len(re.findall(r"(?i)B?F16|Q\d_[0-9K](?:_[A-Z]+)?", found)) == 1


def test_a_file_of_another_size_has_another_name(ground: Path, result: Allocation) -> None:
    other = allocate(
        ground / "model-F16.gguf", like=None, bpw=3.9, map=ground / "out" / "sensitivity.json", out=ground / "size"
    )
    assert result.written.path.name == "model-cerebellum-Q3_K_M.gguf" != other.written.path.name
    assert "3.9bpw" in other.written.path.name and label_of(other.written.path.name) == other.base.ftype
    assert read_model(result.written.path).file_bytes == result.written.file_bytes


# -- estimate ----------------------------------------------------------------------------------------------------------


def test_the_estimate_counts_the_trials_that_the_run_makes(
    ground: Path, result: Allocation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ground / "model-F16.gguf"
    options: dict[str, Any] = {"text": ground / "text.txt", "ctx": 64, "like": "Q3_K_M"}
    found = api.estimate(path, out=tmp_path / "no", backend=planted(path), **options)
    assert 0.8 * result.anchors.n_trials <= found.n_trials <= 1.2 * result.anchors.n_trials and found.n_tensors == len(
        result.table.names
    )
    assert found.limit == result.limit and (found.search_chunks, found.report_chunks) == (30, 30)
    assert found.minutes >= 0.0 and found.disk_bytes > result.base.model.file_bytes + result.limit
    assert not (tmp_path / "no").exists()
    show_estimate(found, as_json=False)
    printed = capsys.readouterr().out
    assert all(len(line) <= 80 for line in printed.splitlines())
    assert "smallest difference" in printed and "has only 30 chunks" in printed
    with pytest.raises(InputError, match="smallest file"):
        api.estimate(path, backend=planted(path), **{**options, "like": None}, size=1000)


def test_the_estimate_of_a_ladder_is_of_all_its_files(ground: Path, ladder: AllocationLadder) -> None:
    """One set of anchors, recipes and controls of each size, as the study then holds them; a size that can't be had is a note."""
    path = ground / "model-F16.gguf"
    options: dict[str, Any] = {"backend": planted(path), "text": ground / "text.txt", "ctx": 64}
    found = api.estimate(path, ladder="Q4_K_M,Q2_K,3.9bpw,10kB", **options)
    assert dict(found.sizes).keys() == {r.base.ftype for r in ladder.results}
    assert [n for _, n in found.sizes] == [r.limit for r in ladder.results] and found.limit == found.sizes[-1][1]
    assert [note for note in found.notes if note.startswith("no file of 10,000 bytes: the smallest file")]
    trials = sum(r.anchors.n_trials for r in ladder.results)
    assert 0.8 * trials <= found.n_trials <= 1.2 * trials
    with contextlib.closing(sqlite3.connect(ground / "ladder" / "study.sqlite")) as study:
        measured = study.execute("SELECT count(*) FROM score").fetchone()[0]
    assert measured <= found.trial_chunks <= 2.0 * measured  # on a fake model most steps and rungs need not be measured
    one = api.estimate(path, like="Q4_K_M", **options)
    assert one.sizes == () and 2.0 * one.trial_chunks < found.trial_chunks < 3.0 * one.trial_chunks
    assert "3 files, each the best of at most" in estimate_lines(found)[0]
    with pytest.raises(InputError, match="smallest file"):
        api.estimate(path, ladder="10kB,11kB", **options)
    last = api.estimate(path, ladder="10kB,11kB,Q4_K_M", **options)  # the one in the middle can't measure the anchors
    assert last.n_trials == one.n_trials > 0
    assert last.trial_chunks == one.trial_chunks + one.search_chunks  # small sizes want an importance matrix
    assert last.disk_bytes == one.disk_bytes and estimate_lines(last)[0].count("the best of") == 1
    least = dict(found.sizes)["Q2_K"]
    both, alone = (api.estimate(path, ladder=sizes, **options) for sizes in (f"Q2_K,{least + 100}", "Q2_K,10kB"))
    assert [mix for mix, _ in both.sizes] == ["Q2_K", "Q2_K"]
    assert both.disk_bytes == alone.disk_bytes + least + 100  # two files, one base


def test_an_estimate_refuses_what_the_job_would(ground: Path, result: Allocation, tmp_path: Path) -> None:
    """A size named twice, a base beside several sizes, and the map of another model."""
    path = ground / "model-F16.gguf"
    options: dict[str, Any] = {"backend": planted(path), "text": ground / "text.txt", "ctx": 64}
    with pytest.raises(InputError, match="names a size twice"):
        api.estimate(path, ladder="Q4_K_M,q4_k_m", **options)
    with pytest.raises(InputError, match="leave out --base"):
        api.estimate(path, ladder="Q4_K_M,Q2_K", base="Q3_K_M", **options)
    kept = json.loads((ground / "out" / "sensitivity.json").read_text())
    assert api.estimate(path, map=ground / "out" / "sensitivity.json", **options).n_trials == 0
    kept["model"]["sha256"] = "0" * 64
    (tmp_path / "map.json").write_text(json.dumps(kept))
    with pytest.raises(InputError, match="another model"):
        api.estimate(path, map=tmp_path / "map.json", **options)


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_an_estimate_says_what_it_is_doing_before_each_slow_step(ground: Path) -> None:
    path, told = ground / "model-F16.gguf", Told()
    api.estimate(path, backend=planted(path), text=ground / "text.txt", ctx=64, progress=told)
    assert [any(word in note for note in told.notes) for word in ("reading", "stock", "opening", "timing")] == [
        True
    ] * 4


def test_times_are_hours_and_minutes() -> None:
    given = (0.4, 12.2, 59.4, 61.0, 90.0, 1507.0, math.nan)
    found = [duration(minutes) for minutes in given]
    assert found[:3] == ["about a minute", "about 12 minutes", "about 59 minutes"]
    assert found[3:6] == ["about 1 h 00 min", "about 1 h 30 min", "about 25 h 05 min"] and "isn't known" in found[6]


def test_help_says_what_the_defaults_are() -> None:
    """Of `run` and of `demo`, whose sizes differ, and of chunks."""
    helps = {command.name: {p.name: p.help for p in command.params if isinstance(p, Option)} for command in (run, demo)}
    assert f"[default: {DEFAULT_LIKE}]" in (helps["run"]["like"] or "")
    assert f"[default: {bundled.DEMO_LIKE}]" in (helps["demo"]["like"] or "")
    assert f"{api.USUAL_TOKENS:,} tokens, {api.usual_chunks(1 << 30)} at least" in (helps["run"]["chunks"] or "")


def test_with_a_map_no_trial_is_expected(ground: Path, result: Allocation) -> None:
    path = ground / "model-F16.gguf"
    known = ground / "out" / "sensitivity.json"
    assert api.estimate(path, backend=planted(path), text=ground / "text.txt", ctx=64, map=known).n_trials == 0


def test_another_model_needs_its_own_text(ground: Path) -> None:
    with pytest.raises(InputError, match="isn't the bundled model"):
        api.allocate(ground / "model-F16.gguf", out=ground / "none", backend=planted(ground / "model-F16.gguf"))


def test_the_usual_number_of_chunks() -> None:
    assert [api.usual_chunks(ctx) for ctx in (512, 2048, 8192, 100)] == [64, 16, 16, 328]


@pytest.mark.parametrize(
    ("text", "is_told"),
    [
        ('{"messages": [{"role": "user", "content": "a"}]}\n{}', True),
        ('\n{"conversations": []}\n', True),
        ('{"messages": 3}', False),
        ("{not JSON", False),
        ("[" * 5000, False),
        ("Once upon a time", False),
    ],
)
def test_conversations_measured_as_text_are_told(text: str, is_told: bool) -> None:
    texts = Texts(Path("talk.jsonl"), text, None, None, False, None)
    assert [w.startswith("talk.jsonl looks like conversations") for w in conversations_unasked(texts)] == [
        True
    ] * is_told


def test_the_note_of_a_picture_fits_its_width() -> None:
    """A letter of size 10 takes about 5.8 of the 720 units: a long note goes on in lines of its own."""
    note = "world-gemma4-F16.gguf at Q3_K_M; search text search.txt (bundled small world), chunks 0 to 7 (8 of 256 tokens, the second half)"
    drawn = ET.fromstring(recipes_picture([Recipe("stock mix", 100, 0.002, 0.003, True)], note))
    lines = [
        e for e in drawn.iter("{http://www.w3.org/2000/svg}text") if e.get("x") == "12.0" and float(e.get("y", 0)) > 450
    ]
    assert " ".join(e.text or "" for e in lines) == note
    assert all(len(e.text or "") * 5.8 < 708 for e in lines)
    assert float(lines[-1].get("y", 0)) < float(drawn.get("height", 0)) - 8
