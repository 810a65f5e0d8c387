"""Stock files beside a recipe: which are measured, which one is as good (interpolated on a planted ladder, also where a larger rung is
worse than a smaller one), and which is the best that is no larger."""

from __future__ import annotations

import html
import math
from pathlib import Path

import numpy as np
import pytest

from cerebellum.allocation.candidates import DEFAULT_TYPES, TypeRules
from cerebellum.allocation.sizes import file_bytes
from cerebellum.errors import InputError
from cerebellum.gguf.imatrix_write import write_importance
from cerebellum.gguf.importance import Importance, Sums
from cerebellum.gguf.labels import label_of
from cerebellum.gguf.llama_rules import quantizable_tensors
from cerebellum.gguf.model_file import read_model
from cerebellum.notebook import VIEWS, view_html
from cerebellum.report.allocation_lines import as_good_as, rival_lines
from cerebellum.results.allocation import Allocation
from cerebellum.results.stock import StockRung
from cerebellum.stats.intervals import Interval
from cerebellum.testing import FakeBackend
from cerebellum.verbs.allocation.stock import IQ_MIXES, STOCK, climbed, equivalent_bytes, equivalent_of, mix_sizes
from cerebellum.verbs.options import SessionOptions
from tests.allocation.small import allocate, effects, write_model

FALLING = [StockRung("Q2_K", 100, 0.4), StockRung("Q3_K_M", 120, 0.1), StockRung("Q4_K_M", 160, 0.025)]


def test_it_is_log_linear_between_neighbours() -> None:
    assert equivalent_bytes(FALLING, 0.2) == pytest.approx(110.0) and equivalent_bytes(FALLING, 0.05) == pytest.approx(
        140.0
    )
    assert [equivalent_bytes(FALLING, r.kld) for r in FALLING] == [100, 120, 160]
    assert (
        equivalent_bytes(FALLING[:1], FALLING[0].kld * (1 + 1e-12)) == 100
    )  # the stock mix itself, alone on its ladder
    assert equivalent_bytes(FALLING, 0.5) is None and equivalent_bytes(FALLING, 0.02) is None


def test_a_rung_that_a_smaller_one_beats_is_passed_over() -> None:
    """SmolLM2 at 6 chunks: stock Q3_K_L was worse than Q3_K_M, and a file a little better than Q3_K_M was called 6 % larger."""
    rungs = [
        StockRung("Q3_K_S", 88, 0.486),
        StockRung("Q3_K_M", 93, 0.157),
        StockRung("Q3_K_L", 97, 0.194),
        StockRung("Q4_K_S", 102, 0.078),
    ]
    found = equivalent_bytes(rungs, 0.153)
    assert found is not None and found == pytest.approx(93 + 9 * math.log(0.157 / 0.153) / math.log(0.157 / 0.078))
    assert found < 94 and equivalent_bytes(rungs[::-1], 0.153) == found


def test_beyond_the_ladder_is_said_on_which_side() -> None:
    """BabyLlama at Q2_K's bytes: IQ4_NL, no larger, was nearer than the recipe, and "no stock file is as near" was said."""
    rungs = [StockRung("IQ4_NL", 100, 0.3), StockRung("Q2_K", 100, 0.6), *FALLING[1:]]

    def line(kld: float) -> str:
        interval = Interval(kld, kld, kld, 0.0, 8, 0.95)
        return as_good_as(equivalent_of(rungs, kld, Interval(1.0, 1.0, 1.0, 0.0, 8, 0.95)), rungs, interval, 100)

    assert "less than 0.00 MB; IQ4_NL" in line(0.5)
    assert "as far from the reference; Q2_K" in line(0.7) and "as near to the reference; Q4_K_M" in line(0.01)
    assert "interpolated" in line(0.2)


def test_rungs_alike_divide_by_nothing() -> None:
    twins = [StockRung("A", 100, 0.1), StockRung("B", 100, 0.1), StockRung("C", 110, 0.1), StockRung("D", 120, 0.05)]
    assert equivalent_bytes(twins, 0.1) == 100 and equivalent_bytes(twins, 0.05) == 120


def test_a_smaller_share_is_a_larger_file() -> None:
    found = equivalent_of(FALLING, 0.1, Interval(0.5, 0.4, 2.0, 0.1, 8, 0.95))
    assert found.n_bytes == pytest.approx(140.0) and found.low == pytest.approx(110.0)
    assert found.high is not None and found.high > 140.0


def test_a_lower_limit_under_zero_sends_nobody_up_the_whole_ladder() -> None:
    """With 4 chunks all ten K mixes and the IQ mixes under them were measured, for a limit that stays unknown."""
    assert climbed(Interval(0.3, -0.2, 0.9, 0.1, 4, 0.95)) == (0.3, 0.9)
    assert climbed(Interval(0.3, 0.2, 0.9, 0.1, 4, 0.95)) == (0.2, 0.9)
    assert equivalent_of(FALLING, 0.2, Interval(0.5, -0.2, 0.9, 0.1, 4, 0.95)).high is None


def iq_of(result: Allocation) -> set[str]:
    return {rung.ftype for rung in result.controls.ladder} & set(IQ_MIXES)


def test_iq_mixes_are_stock_files_too_where_they_can_be_made_and_are_allowed(tmp_path: Path) -> None:
    """Beside a recipe of Q3_K_M's size: those between the rungs that hold it, and the two nearest below the size asked for. The planted
    damage falls by 4 a bit, so an IQ4_XS file is as good for its bytes as a K mix."""
    path = write_model(tmp_path)
    backend = FakeBackend(effects(path, DEFAULT_TYPES))
    both = {
        name: allocate(path, backend, out=tmp_path / name, types=",".join(DEFAULT_TYPES), **more)
        for name, more in {"all": {}, "k": {"never": "IQ*"}}.items()
    }
    ladder = both["all"].controls.ladder
    assert iq_of(both["all"]) and not iq_of(both["k"])
    assert not iq_of(both["all"]) & {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS"}  # no matrix
    assert [rung.file_bytes for rung in ladder] == sorted(rung.file_bytes for rung in ladder)
    assert len({rung.file_bytes for rung in ladder if rung.ftype in IQ_MIXES}) == len(iq_of(both["all"]))  # none twice
    for result in both.values():
        best = min((r for r in result.controls.ladder if r.file_bytes <= result.limit), key=lambda r: r.kld)
        rival = result.controls.rival
        assert (rival and rival.ftype) == (None if best.ftype.startswith("Q3_K") else best.ftype)
        mean = result.controls.comparison.rows[1].summary.divergence
        assert mean is not None
        if rival is not None:
            assert rival.ratio.estimate == pytest.approx(mean.mean.estimate / best.kld)
            assert rival.ratio.low <= rival.ratio.estimate <= rival.ratio.high


def test_the_k_mix_within_a_size_that_its_stock_file_exceeds_stands_beside_it(tmp_path: Path) -> None:
    """Nearest to the size asked for is Q4_K, which is too large; without IQ types nothing was named that is no larger."""
    path = write_model(tmp_path)
    backend = FakeBackend(effects(path, DEFAULT_TYPES))
    size = file_bytes(read_model(path), backend.types(path, "Q4_K_M")) - 64
    result = allocate(path, backend, like=None, size=size, types=",".join(DEFAULT_TYPES), never="IQ*")
    rival = result.controls.rival
    assert result.base.ftype.startswith("Q4_K") and rival and rival.ftype.startswith("Q3_K")
    assert rival.file_bytes <= result.limit < result.base.model.file_bytes
    (line,) = rival_lines(rival)
    assert (
        html.escape(line) in view_html(VIEWS[Allocation](result))
        and line in (tmp_path / "out" / "report.md").read_text()
    )
    types = [tuple(sorted(backend.types(path, rung.ftype).items())) for rung in result.controls.ladder]
    assert len(set(types)) == len(types)  # Q4_K_S and Q4_K_M are one file, on the fake backend


def test_what_the_base_is_decides_by_its_types_not_by_its_name(tmp_path: Path) -> None:
    """A base of other types than its mix's isn't the stock file. A mix of the very types of the base is, whatever its name."""
    path = write_model(tmp_path)
    backend = FakeBackend(effects(path, DEFAULT_TYPES))
    lines = tmp_path / "lines.txt"
    lines.write_text("blk.0.attn_v.weight=q8_0\n")
    shaped = allocate(path, backend, like="Q4_K_M", never="IQ*", base_overrides=lines, out=tmp_path / "shaped")
    rival = shaped.controls.rival
    assert rival and rival.ftype.startswith("Q4_K")
    assert rival.ratio.estimate != pytest.approx(shaped.controls.ratio.estimate)
    alike = allocate(path, backend, like="IQ3_M", types=",".join(DEFAULT_TYPES), out=tmp_path / "alike")
    assert iq_of(alike) & {"IQ3_XS", "IQ3_S", "IQ3_M"} == {"IQ3_M"}  # one type for all tensors, on the fake backend


def test_a_size_under_all_k_mixes_has_an_iq_mix_beside_it_and_gets_its_matrix(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    backend = FakeBackend(effects(path, DEFAULT_TYPES))
    bits = 2.2
    result = allocate(path, backend, like=None, bpw=bits, types=",".join(DEFAULT_TYPES))
    assert result.base.ftype in IQ_MIXES and label_of(result.written.path.name) == result.base.ftype
    assert (tmp_path / "out" / "imatrix.gguf").exists()
    assert result.written.file_bytes <= result.limit < min(result.stock_bytes[f] for f in STOCK)
    refused = {"like": None, "bpw": bits, "imatrix": "none", "out": tmp_path / "no"}
    with pytest.raises(InputError, match="smallest file"):
        allocate(path, backend, **refused)


def test_sizes_are_looked_up_among_mixes_that_can_be_had(tmp_path: Path) -> None:
    """Small ones among IQ mixes too: only with a matrix, or where one may be made, and only of types that are allowed."""
    path = write_model(tmp_path)

    def mixes(least: int, never: tuple[str, ...] = (), makes: bool | None = None) -> set[str]:
        options = SessionOptions(path, tmp_path / "out", make_imatrix=makes)
        return set(mix_sizes(FakeBackend(), read_model(path), options, TypeRules(never=never), least)) - set(STOCK)

    assert "IQ2_XS" in mixes(1) and "IQ4_XS" not in mixes(1)
    assert not mixes(1, makes=False) and not mixes(1, never=("IQ*",)) and not mixes(1 << 40)
    assert "IQ2_XS" not in mixes(1, never=("IQ2_XS",)) and "IQ2_XXS" in mixes(1, never=("IQ2_XS",))


def test_a_mix_that_a_given_matrix_is_too_small_for_is_no_base(tmp_path: Path) -> None:
    """One tensor lacks an entry: the base could not be made, and the job ended there."""
    path, matrix = write_model(tmp_path), tmp_path / "some.gguf"
    model = read_model(path)
    names = [t.name for t in quantizable_tensors(model)]

    def mixes(known: list[str]) -> set[str]:
        rows = {t.name: t.row_length for t in model.tensors}
        entries = {n: Sums(np.ones(rows[n], np.float32), np.array([1000])) for n in known}
        write_importance(Importance(entries, ("x",), 512), matrix, tmp_path / "partial")
        given = SessionOptions(path, tmp_path / "out", imatrix=matrix)
        return set(mix_sizes(FakeBackend(), model, given, TypeRules(), 1)) - set(STOCK)

    assert "IQ2_XS" in mixes(names) and not mixes([n for n in names if "ffn_down" not in n])


def test_a_size_that_no_types_give_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    for sizes in ({"like": None, "size": 2_000}, {"like": "Q2_K", "types": "Q8_0"}):
        with pytest.raises(InputError, match="smallest file"):
            allocate(path, **sizes)
    assert not (tmp_path / "out").exists()
