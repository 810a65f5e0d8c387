"""The compiled loops and their elementary functions against extended precision; their cache on disk."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cerebellum.parallel import ALONE
from cerebellum.scoring import metrics
from cerebellum.scoring.loops import fastmath, kernels
from cerebellum.scoring.loops.simd import lane, splat
from cerebellum.scoring.metrics import INVERSE_TEMPERATURES, METRIC_VERSION, reference_rows, score_rows

SOURCES = Path(__file__).resolve().parents[2] / "src"
Doubles = npt.NDArray[np.float64]

CODE = """
import sys, warnings
warnings.simplefilter("error")
import numpy as np
from cerebellum import compiled, metrics
rng = np.random.default_rng(5)
logits = (5 * rng.standard_normal((6, 777))).astype(np.float32)
logits[1, 700:], logits[2, 9], logits[3, 100] = -1e4, -np.inf, 900.0
targets = np.arange(6)
score = metrics.score_rows(0, logits, targets, metrics.reference_rows(logits[::-1], targets, 40))
print(score.nll.hex(), score.kld.hex(), score.kld_var.hex(), [x.hex() for x in score.tempered])
print(compiled.code_folder())
"""


def ulps(found: Doubles, true: npt.NDArray[np.longdouble]) -> float:
    """The largest error in units of the last place of the true value."""
    return float((np.abs(found - true) / np.spacing(np.abs(true).astype(np.float64))).max())


def test_the_exponential_is_within_little_more_than_one_ulp() -> None:
    """Over all of its range, near zero, a little above, and where the reduced argument is largest, the worst found by a long search among
    them; nothing below -700, and NaN stays NaN."""
    rng = np.random.default_rng(1)
    edges = math.log(2) / 16 * (rng.integers(-16000, 1, 200_000) - 0.5 + rng.uniform(-1e-3, 1e-3, 200_000))
    spread = [rng.uniform(-699.9, 0, 50_000), rng.uniform(-40, 1, 50_000), rng.uniform(-1e-3, 1e-3, 9_000)]
    x = np.concatenate([*spread, edges[edges > -700], [float.fromhex("-0x1.36ecbfd6083c2p+4")]])
    out = np.empty_like(x)
    kernels.exponentials(x, out)
    assert ulps(out, np.exp(x.astype(np.longdouble))) < 1.2
    ends, values = np.array([0.0, -700.001, -1e5, -math.inf, math.nan]), np.empty(5)
    kernels.exponentials(ends, values)
    assert values[:4].tolist() == [1.0, 0.0, 0.0, 0.0] and math.isnan(values[4])


@numba.njit
def tenths(x: Doubles, taken: float, out: Doubles) -> None:
    """exp(x / 10) / 2^taken."""
    for i in range(len(x)):
        out[i] = lane(fastmath.exp_tenth(splat(x[i]), taken), 0)


@pytest.mark.parametrize("taken", [0.0, 41.0, -300.0])
def test_the_exponential_of_a_tenth(taken: float) -> None:
    """Over its range, and where the reduced argument is largest; no power of the least is subnormal, NaN stays NaN."""
    rng = np.random.default_rng(4)
    top, least = 10 * math.log(2) * taken, fastmath.least_tenth(taken)
    edges = 10 * math.log(2) / 16 * (rng.integers(-1300, 1, 50_000) - 0.5 + rng.uniform(-1e-3, 1e-3, 50_000))
    x = top + np.concatenate([rng.uniform(-580, 0, 50_000), rng.uniform(-30, 3, 50_000), edges])
    x = x.astype(np.float32).astype(np.float64)
    x = x[x > least]
    out = np.empty_like(x)
    tenths(x, taken, out)
    true = np.ldexp(np.exp(x.astype(np.longdouble) / 10), -int(taken))
    farther = 1e-18 * np.abs(x) / (10 * math.log(2)) * true
    assert ((np.abs(out - true) - farther) / np.spacing(true.astype(np.float64))).max() < 1.2
    extremes, values = np.array([least, math.inf, math.nan]), np.empty(3)
    tenths(extremes, taken, values)
    assert values[0] ** 12 > sys.float_info.min and np.isnan(values[1:]).all()


def test_the_polynomial_is_the_interpolation_that_it_is_said_to_be() -> None:
    """(exp(r) − 1)/r at Chebyshev's six nodes on |r| ≤ log(2)/32, in rational numbers."""
    nodes = [Fraction(math.log(2) / 32 * math.cos(math.pi * (2 * i + 1) / 12)) for i in range(6)]
    differences = [sum(r**n / math.factorial(n + 1) for n in range(15)) for r in nodes]
    for order in range(1, 6):  # Newton's divided differences
        for i in range(5, order - 1, -1):
            differences[i] = (differences[i] - differences[i - 1]) / (nodes[i] - nodes[i - order])
    found = [Fraction(0)]
    for difference, node in zip(reversed(differences), reversed(nodes), strict=True):
        found = [a - node * b for a, b in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
        found[0] += difference
    true = [float(c) for c in found[:6]]
    assert pytest.approx(true, rel=1e-13, abs=0) == fastmath._OF_EXP
    assert pytest.approx([c / 10**n for n, c in enumerate(true, 1)], rel=1e-13, abs=0) == fastmath._OF_TENTH


def test_the_roots_are_the_nearest() -> None:
    """No other float64 is nearer to 2^(j/16): in rational numbers, by its 16th power. In the table j is taken off again."""
    for j, root in enumerate(fastmath._ROOTS):
        half = Fraction(math.ulp(root)) / 2
        assert (Fraction(root) - half) ** 16 < 2**j < (Fraction(root) + half) ** 16
    bits = fastmath._TABLE.view(np.int64) + (np.arange(16) << 48)
    assert bits.view(np.float64).tolist() == list(fastmath._ROOTS)


def test_the_logarithm_is_within_two_ulp() -> None:
    """Near one, over all magnitudes, and for exact powers of two."""
    rng = np.random.default_rng(2)
    x = np.concatenate([1 + rng.uniform(-0.4, 0.6, 50_000), 2.0 ** rng.uniform(-1000, 1000, 50_000), [0.5, 2.0, 4.0]])
    out = np.empty_like(x)
    kernels.logarithms(x, out)
    assert ulps(out, np.log(x.astype(np.longdouble))) < 2.0
    kernels.logarithms(np.ones(1), one := np.empty(1))
    assert one[0] == 0.0


@numba.njit
def times_powers(x: Doubles, powers: Doubles, out: Doubles) -> None:
    """log(x × 2^power)."""
    for i in range(len(x)):
        out[i] = fastmath.log(x[i], powers[i])


def test_the_logarithm_of_a_multiple() -> None:
    """By powers of two far beyond float64's own."""
    rng = np.random.default_rng(11)
    x, powers = rng.uniform(0.01, 1e6, 50_000), np.rint(2.0 ** rng.uniform(0, 34, 50_000)) * rng.choice([-1, 1], 50_000)
    times_powers(x, powers, out := np.empty_like(x))
    assert ulps(out, np.log(x.astype(np.longdouble)) + powers * np.log(np.longdouble(2))) < 2.0


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 70) | st.sampled_from([2047, 2048, 2049, 4100, 40_000]),
    st.sampled_from([0.0, 1.0, 30.0, 3000.0, 1e9]),
    st.integers(0, 9999),
)
def test_normalizers_and_extremes(v: int, scale: float, seed: int) -> None:
    """Of any row length: every log Σ exp(βz) to a few units of float64, the first largest, the smallest."""
    logits = (scale * np.random.default_rng(seed).standard_normal((3, v))).astype(np.float32)
    logits[1, v // 2 :] = logits[1, 0]
    lse, tempered, top, lowest = np.empty(3), np.empty((3, 9)), np.empty(3, np.int64), np.empty(3)
    kernels.normalize(logits, 0, 3, lse, tempered, top, lowest)
    assert top.tolist() == logits.argmax(axis=1).tolist() and lowest.tolist() == logits.min(axis=1).tolist()
    wide = logits.astype(np.longdouble)
    high = wide.max(axis=1)
    for place, beta in enumerate(INVERSE_TEMPERATURES):
        exact = np.longdouble(round(10 * beta)) / 10
        true = exact * high + np.log(np.exp(exact * (wide - high[:, None])).sum(axis=1))
        assert (np.abs(tempered[:, place] - true) <= 4e-15 * (2 + np.abs(true))).all()
    assert lse.tolist() == tempered[:, INVERSE_TEMPERATURES.index(1.0)].tolist()


def test_the_bits_are_known() -> None:
    """Every operation is rounded as written, so the same sums come out on any processor: compared with a plain Python walk."""
    row = (6 * np.random.default_rng(8).standard_normal(24)).astype(np.float32)
    lanes = np.zeros(8)
    s = np.empty(24)
    kernels.exponentials(row.astype(np.float64) - 3.0, s)
    for start in (0, 8, 16):
        lanes += s[start : start + 8]
    pairs = lanes[:4] + lanes[4:]
    log_q = np.array([2.5])
    kernels.complete(row[None], 0, 1, log_q, row[None], np.full(1, 3.0), kld := np.empty(1))
    terms = s * ((row.astype(np.float64) - 3.0) - (row.astype(np.float64) - 2.5))
    lanes = terms[:8] + terms[8:16] + terms[16:]
    pairs = lanes[:4] + lanes[4:]
    assert kld[0] == (pairs[0] + pairs[2]) + (pairs[1] + pairs[3])


def test_a_changed_bit_wants_a_new_version() -> None:
    """The figures of each row, of rows of many lengths, to the last bit and on any processor; where they change, so must the version
    that is part of every key."""
    digest, rng = hashlib.sha256(), np.random.default_rng(5)
    for v in (5, 13, 777, 2059, 4103):
        logits = (rng.integers(-(2**14), 2**14, (4, v)) / 1024).astype(np.float32)
        trial = (logits + rng.integers(-(2**10), 2**10, logits.shape) / 1024).astype(np.float32)
        rows = metrics._normalized(trial, ALONE)
        for k in (None, 2, 3, min(40, v - 1), v - 1):
            reference = reference_rows(logits, np.zeros(4, np.int64), k)
            kld, variance = metrics._divergence(trial, rows, reference, ALONE)
            for array in (reference.lse, reference.target_nll, kld, variance):
                digest.update(array.tobytes())
        for figures in (rows.lse, rows.tempered, rows.top, rows.lowest):
            digest.update(figures.tobytes())
    assert (METRIC_VERSION, digest.hexdigest()[:16]) == (8, "15ed32294d776557")


GUARDED = """
import ctypes, mmap, sys
import numpy as np
from cerebellum.scoring import metrics
page, v, k = mmap.PAGESIZE, int(sys.argv[1]), int(sys.argv[2]) or None

def guarded(array):
    memory = mmap.mmap(-1, (array.nbytes // page + 3) * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    end = start + len(memory) - page
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(end), ctypes.c_size_t(page), 0) == 0
    place = len(memory) - page - array.nbytes
    copy = np.frombuffer(memory, array.dtype, array.size, place).reshape(array.shape)
    copy[:] = array
    return copy

rng = np.random.default_rng(v)
reference, trial = (rng.standard_normal((3, v)).astype(np.float32) for _ in range(2))
targets, fields = np.arange(3) % v, ("logits", "lse", "target_nll", "top", "ids")
rows = metrics.reference_rows(guarded(reference), targets, k)
behind = metrics.ReferenceRows(*(None if getattr(rows, f) is None else guarded(getattr(rows, f)) for f in fields), rows.drawn)
assert metrics.score_rows(0, guarded(trial), targets, behind) == metrics.score_rows(0, trial, targets, rows)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="memory is guarded by mprotect")
@pytest.mark.parametrize(("v", "k"), [(3, 0), (15, 2), (17, 9), (31, 16), (2049, 7), (4104, 0)])
def test_nothing_behind_the_last_row_is_read(v: int, k: int) -> None:
    """A page that may not be read lies behind each array; in a process of its own, which would be killed."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    subprocess.run([sys.executable, "-c", GUARDED, str(v), str(k)], env=environment, check=True, timeout=250)


@pytest.mark.parametrize("v", [5, 8, 19, 2049])
@pytest.mark.parametrize(
    "broken", ["nan first", "nan last", "nan before the largest", "all nan", "all -inf", "all 3e38", "all -8e9", "inf"]
)
def test_broken_rows_stay_broken(v: int, broken: str) -> None:
    """The study refuses sums that are no numbers, so none of these may come out as one."""
    row = np.random.default_rng(6).standard_normal(v).astype(np.float32)
    if broken.startswith("all"):
        row[:] = float(broken.removeprefix("all "))
    else:
        row[3] = 9.0
        row[{"nan first": 0, "nan last": -1, "nan before the largest": 2, "inf": 1}[broken]] = float(
            broken.split(maxsplit=1)[0]
        )
    target, sound = np.zeros(1, np.int64), np.zeros((1, v), np.float32)
    with np.errstate(invalid="ignore"):
        for k in (None, 3):
            score = score_rows(0, row[None], target, reference_rows(sound, target, k))
            assert not math.isfinite(score.nll) and not any(map(math.isfinite, score.tempered))
            against = score_rows(0, sound, target, reference_rows(row[None], target, k))
            assert not math.isfinite(score.kld or 0.0) and not math.isfinite(against.kld or 0.0)


@settings(deadline=None, max_examples=80)
@given(st.integers(2, 60), st.integers(0, 9999), st.integers(1, 5))
def test_the_largest_are_those_of_a_stable_sort(v: int, seed: int, different: int) -> None:
    """With few different values, so that ties decide: of equals the earlier is kept, and comes first."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, different, (4, v)).astype(np.float32)
    k = int(rng.integers(1, v))
    kept, ids = np.empty((4, k), np.float32), np.empty((4, k), np.uint32)
    kernels.largest(logits, 0, 4, k, kept, ids)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    assert (ids == order).all() and (kept == np.take_along_axis(logits, order, axis=1)).all()


@pytest.mark.parametrize("k", [None, 6])
def test_impossible_tokens(k: int | None) -> None:
    """A logit of -inf is a probability of zero: nothing where the reference has none, no limit where the trial alone rules it out."""
    rng = np.random.default_rng(3)
    logits, targets = rng.standard_normal((5, 20)).astype(np.float32), np.zeros(5, np.int64)
    masked = logits.copy()
    masked[:, 11] = -np.inf
    both = score_rows(0, masked, targets, reference_rows(masked, targets, k))
    assert both.kld == 0.0 and math.isfinite(both.nll)
    some = score_rows(0, logits, targets, reference_rows(masked, targets, k))
    if k is None:
        log_q = math.fsum(
            math.log1p(math.exp(r[11]) / math.fsum(np.exp(np.delete(r, 11)).tolist())) for r in logits.astype(float)
        )
        assert some.kld == pytest.approx(log_q, rel=1e-9)
        assert score_rows(0, masked, targets, reference_rows(logits, targets, k)).kld == math.inf


def test_no_rest_where_even_a_kept_token_is_impossible() -> None:
    """What rounding leaves of the kept mass is then no rest, and has no limit to be broken."""
    for seed in range(20):
        logits = np.full((6, 40), -np.inf, np.float32)
        logits[:, :4] = np.random.default_rng(seed).standard_normal((6, 4))
        trial, targets = logits.copy(), np.zeros(6, np.int64)
        trial[:, :4] += 0.1
        score = score_rows(0, trial, targets, reference_rows(logits, targets, 6))
        assert score.kld == pytest.approx(0.0, abs=1e-6) and score.kld_var == pytest.approx(0.0, abs=1e-12)


def test_many_kept_tokens_lose_nothing() -> None:
    """Small probabilities after large ones, so many that a plain sum loses them."""
    v, k = 1 << 18, 1 << 17
    trial = np.full((1, v), -38.0, np.float32)
    trial[0, :k] = -math.log(0.13 * 2**53)
    trial[0, :8] = 0.0
    logits, target = np.zeros((1, v), np.float32), np.zeros(1, np.int64)
    found, true = (score_rows(0, trial, target, reference_rows(logits, target, kept)) for kept in (k, None))
    assert found.kld == pytest.approx(true.kld, rel=1e-4)


def test_rows_that_are_not_there() -> None:
    """No rows: sums of nothing."""
    logits, targets = np.empty((0, 50), np.float32), np.empty(0, np.int64)
    score = score_rows(0, logits, targets, reference_rows(logits, targets, 4))
    assert (score.n_tokens, score.nll, score.kld, score.kld_var, score.kld_tokens) == (0, 0.0, 0.0, 0.0, b"")


# -- the cache ---------------------------------------------------------------------------------------------------------


def start(**environment: str) -> subprocess.Popen[str]:
    everything = {**os.environ, "PYTHONPATH": str(SOURCES), **environment}
    return subprocess.Popen([sys.executable, "-c", CODE], env=everything, stdout=subprocess.PIPE, text=True)


def lines(process: subprocess.Popen[str]) -> list[str]:
    out, _ = process.communicate(timeout=250)
    assert process.returncode == 0
    return out.splitlines()


@pytest.mark.slow
def test_two_processes_fill_one_cache_and_a_third_uses_it(tmp_path: Path) -> None:
    """Two compile at once into an empty folder, another later finds all of it; one that can write nowhere compiles in memory, without
    a warning. The bits are the same.
    """
    (tmp_path / "file").write_text("not a folder")
    running = [start(NUMBA_CACHE_DIR=str(tmp_path / name)) for name in ("cache", "cache", "file/cache")]
    *told, alone = [lines(process) for process in running]
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb?")}
    assert len([path for path in files if path.suffix == ".nbc"]) == 7
    told.append(lines(start(NUMBA_CACHE_DIR=str(tmp_path / "cache"))))
    assert told[0] == told[1] == told[2] and told[0][1].startswith(str(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb?")} == files
    assert alone == [told[0][0], "None"]


@pytest.mark.slow
def test_a_plain_processor_gives_the_same_bits(tmp_path: Path) -> None:
    """Without fused multiply-add and wide permutations, which other code stands in for, or with less than it has by numba's own settings;
    each in a folder of its own."""
    less: tuple[dict[str, str], ...] = (
        {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
        {"NUMBA_ENABLE_AVX": "0"},
        {},
    )
    told = [lines(process) for process in [start(NUMBA_CACHE_DIR=str(tmp_path), **each) for each in less]]
    assert len({bits for bits, _ in told}) == 1
    assert told[0][1] != told[2][1]
