"""The benchmark as Markdown and as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from histogen.report.benchmark import difference_sentence, difference_table, retrieval_table, score_table
from histogen.report.tables import aligned, markdown_table


def benchmark_table(benchmark: Mapping[str, Any]) -> str:
    """Return the results as Markdown: the scores, the differences, the notes."""
    unit, count = benchmark["clusters"]["unit"], benchmark["clusters"]["count"]
    parts = [
        "# Benchmark",
        f"{benchmark['num_train']:,} for training, {benchmark['num_test']:,} for the test, {len(benchmark['classes'])} "
        f"classes; split: {benchmark['split']['how']}; 95 % bootstrap intervals over {count:,} test {unit}s.",
        markdown_table(*score_table(benchmark)),
    ]
    if retrieval_table(benchmark)[1]:
        parts.append(markdown_table(*retrieval_table(benchmark)))
    if benchmark["differences"]:
        parts.append(markdown_table(*difference_table(benchmark["differences"])))
    return "\n\n".join([*parts, *benchmark["notes"]]) + "\n"


def benchmark_text(benchmark: Mapping[str, Any]) -> str:
    """Return the results as aligned tables, a sentence for each difference on tiles as they are, and the notes."""
    tables = [score_table(benchmark), retrieval_table(benchmark)]
    lines = [line for header, rows in tables if rows for line in aligned(header, rows)]
    told = [
        d
        for d in benchmark["differences"]
        if d["metric"].endswith(("balanced_accuracy", "map")) and "@" not in d["metric"]
    ]
    return "\n".join([*lines, *(difference_sentence(d) for d in told), *benchmark["notes"]])
