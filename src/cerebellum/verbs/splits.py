"""The chunks that choose and the chunks that report, cut from one text or two; never the same text."""

from __future__ import annotations

from collections.abc import Iterable

from cerebellum import bundled
from cerebellum.domain import Corpus
from cerebellum.errors import TextError
from cerebellum.figures import counted
from cerebellum.llamacpp.protocol import Engine
from cerebellum.progress import Progress
from cerebellum.study.runner import Split
from cerebellum.text.overlap import N_GRAM, Overlap, overlap, run_length
from cerebellum.verbs.inputs import Texts
from cerebellum.verbs.text import Text, corpus_of, fewer_chunks


def make_splits(engine: Engine, texts: Texts, n_ctx: int, progress: Progress) -> tuple[Split, Split]:
    """The search split and the report split. Raises `TextError` where there are too few chunks, or shared ones."""
    corpus = corpus_of(engine, texts.search_path.name, texts.search, n_ctx, progress)
    if texts.report_path is None or texts.report is None:
        search, report = halves(corpus, texts)
        tell_fewer((search, report), texts.n_chunks, progress)
        return search, report
    other = corpus_of(engine, texts.report_path.name, texts.report, n_ctx, progress)
    search = split_of("search", corpus, range(corpus.n_chunks), texts.n_chunks)
    report = split_of("report", other, range(other.n_chunks), texts.n_chunks)
    if (texts.search_path, texts.report_path) != (bundled.SEARCH_TEXT, bundled.REPORT_TEXT):
        runs = max(run_of(corpus, texts.search), run_of(other, texts.report))
        check_disjoint(search, report, runs)  # the bundled ones share but patterns of a small world
    tell_fewer((search, report), texts.n_chunks, progress)
    return search, report


def tell_fewer(splits: Iterable[Split], wanted: int | None, progress: Progress) -> None:
    """Tell where a split has fewer chunks than ``wanted``."""
    for split in splits:
        for line in fewer_chunks(split.corpus, wanted, len(split.chunks), split.name):
            progress.note(line)


def halves(corpus: Corpus, texts: Texts) -> tuple[Split, Split]:
    """One text's first half to search, its second half to report. Raises `TextError`."""
    half = corpus.n_chunks // 2
    if half < 2:
        there = counted(corpus.n_chunks, "conversation" if texts.is_chat else "chunk")
        unit = "" if texts.is_chat else f" of {corpus.n_ctx} tokens"
        raise TextError(
            f"{corpus.name} has only {there}{unit}; two must choose and two others report: give a longer text, a smaller --ctx, "
            "or --report-text"
        )
    search = split_of("search", corpus, range(half), texts.n_chunks)
    report = split_of("report", corpus, range(half, corpus.n_chunks), texts.n_chunks)
    check_disjoint(search, report, run_of(corpus, texts.search))
    return search, report


def split_of(name: str, corpus: Corpus, chunks: range, limit: int | None) -> Split:
    """At most ``limit`` of the chunks. Raises `TextError` for a single one."""
    if len(chunks) < 2:
        raise TextError(f"{corpus.name} gives only one chunk to measure on; two are the least: give a longer text")
    return Split(name, corpus, tuple(chunks[:limit]))


def run_of(corpus: Corpus, text: Text) -> int:
    """Tokens in a run by which ``text``, cut into ``corpus``, is compared."""
    return run_length(text, len(corpus.tokens)) if isinstance(text, str) else N_GRAM


def check_disjoint(search: Split, report: Split, runs: int = N_GRAM) -> None:
    """Raises `TextError` where the report text is, in part, also search text: a whole chunk, or what `overlap.Overlap.is_too_much` says.
    ``runs``: tokens in a run.

    The two halves of one text are compared as two texts are.
    """
    one_text = search.corpus is report.corpus
    if search.corpus.tokens_sha256 == report.corpus.tokens_sha256 and not one_text:
        raise TextError(f"{search.corpus.name} and {report.corpus.name} are the same text; the report needs another")
    searched = {search.corpus.chunk(c).tokens.tobytes() for c in search.chunks}
    shared = sum(report.corpus.chunk(c).tokens.tobytes() in searched for c in report.chunks)
    if shared:
        where = "among those that choose" if one_text else f"in {search.corpus.name}, which chooses"
        raise TextError(
            f"{shared} of {len(report.chunks)} chunks of {report.corpus.name} are also {where}; the report needs another text "
            "(--report-text)"
        )
    common = overlap(report.tokens, [search.tokens], report.scored, runs)
    if common.is_too_much(report.corpus.n_ctx):
        what = f"{report.corpus.name}, which reports,"
        where = "in the half that chooses" if one_text else f"in {search.corpus.name}, which chooses"
        raise TextError(f"{how_much(what, common)} is also {where}; the report needs another text (--report-text)")


def how_much(what: str, shared: Overlap) -> str:
    """How much of ``what`` two texts share, in words."""
    return f"{100 * shared.share:.3g} % of {what} (the longest passage: {shared.longest} tokens, in runs of {shared.n} tokens)"
