"""The benchmark in a report: what was shown, in words that claim no more; a table and forest plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from histogen.report import page
from histogen.report.charts import Estimate, forest_plot

TESTS = {"knn": "k-NN", "linear": "linear probe", "simpleshot": "SimpleShot", "mil": "ABMIL", "retrieval": "retrieval"}
METRICS = {"balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1", "accuracy": "accuracy", "map": "mAP"}
TONES: dict[str, page.Tone] = {"better": "good", "worse": "bad"}


def test_title(test: str) -> str:
    """Return what tables call a test: ``k-NN``, or ``k-NN, stain ±20 %`` on changed test tiles."""
    name, _, change = test.partition("@")
    return f"{TESTS.get(name, name)}, {change}" if change else TESTS.get(name, name)


def difference_sentence(difference: Mapping[str, Any]) -> str:
    """Return one honest sentence: ``Gen-DINO − DINO = +1.5 points [0.2, 2.9] of k-NN …, p = 0.020: better``."""
    low, high = difference["ci95"]
    test, _, metric = str(difference["metric"]).rpartition(".")
    return (
        f"{difference['a']} − {difference['b']} = {100 * difference['delta']:+.1f} points "
        f"[{100 * low:+.1f}, {100 * high:+.1f}] of {test_title(test)} {METRICS.get(metric, metric)}, "
        f"p = {difference['p']:.3f}: {difference['verdict']}"
    )


def headline(benchmark: Mapping[str, Any]) -> str:
    """Return the verdict on the first pair of encoders by balanced accuracy, one box per test on tiles as they are."""
    differences = [
        d for d in benchmark["differences"] if d["metric"].endswith("balanced_accuracy") and "@" not in d["metric"]
    ]
    first = [d for d in differences if (d["a"], d["b"]) == (differences[0]["a"], differences[0]["b"])]
    return "".join(
        page.verdict(difference_sentence(d), detail=_detail(d, benchmark), tone=TONES.get(d["verdict"], "plain"))
        for d in first
    )


def benchmark_section(benchmark: Mapping[str, Any]) -> page.Section:
    """Return the table with intervals, the forest plots, the differences and how all of it was measured."""
    clusters = benchmark["clusters"]
    judged = "slides" if any("mil" in encoder for encoder in benchmark["encoders"]) else "tiles"
    counts = {
        f"training {judged}": f"{benchmark['num_train']:,}",
        f"test {judged}": f"{benchmark['num_test']:,}",
        "classes": len(benchmark["classes"]),
        f"test {clusters['unit']}s resampled": f"{clusters['count']:,}",
    }
    blocks = [page.facts(counts), page.table(*score_table(benchmark)), _accuracy_plot(rows_of_encoders(benchmark))]
    if retrieval_table(benchmark)[1]:
        blocks.append(page.table(*retrieval_table(benchmark)))
    if benchmark["differences"]:
        blocks += [
            page.heading("Differences on the same test tiles"),
            page.table(*difference_table(benchmark["differences"])),
            _difference_plot(benchmark["differences"]),
        ]
    blocks += [page.paragraph(note, quiet=True) for note in benchmark["notes"]]
    return page.section(
        "Benchmark",
        *blocks,
        intro=f"Classification of {judged} from frozen embeddings. Split: {benchmark['split']['how']}. In brackets: "
        f"95 % bootstrap intervals over test {clusters['unit']}s. Labels are read by this benchmark alone.",
    )


def rows_of_encoders(benchmark: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the means of recipes run several times, then the single encoders."""
    groups = [
        {**group, "name": f"{group['name']}, mean of {len(group['runs'])}"}
        for group in benchmark.get("groups", [])
        if len(group["runs"]) > 1
    ]
    return [*groups, *benchmark["encoders"]]


def score_table(benchmark: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: one row per test and encoder, balanced accuracy and macro F1 in percent.

    The balanced accuracy on changed test tiles stands beside that on tiles as they are.
    """
    found = dict.fromkeys(key.partition("@")[2] for encoder in benchmark["encoders"] for key in encoder if "@" in key)
    header = ["test", "encoder", "balanced accuracy %", *found, "macro F1 %"]
    rows = []
    for test, title in TESTS.items():
        for encoder in rows_of_encoders(benchmark):
            if test in encoder and test != "retrieval":
                result = encoder[test]
                accuracy = interval_text(result["balanced_accuracy"], result["ci95"])
                f1 = interval_text(result["macro_f1"], result["macro_f1_ci95"])
                changed = [encoder[f"{test}@{change}"] for change in found]
                beside = [interval_text(one["balanced_accuracy"], one["ci95"]) for one in changed]
                rows.append([title, str(encoder["name"]), accuracy, *beside, f1])
    return header, rows


def retrieval_table(benchmark: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the mean average precision; no rows where it was not measured."""
    rows = [
        [str(encoder["name"]), interval_text(encoder["retrieval"]["map"], encoder["retrieval"]["ci95"])]
        for encoder in benchmark["encoders"]
        if "retrieval" in encoder
    ]
    return ["encoder", "retrieval mAP %"], rows


def difference_table(differences: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the paired differences, in points."""
    header = ["a − b", "test", "points [95 % interval]", "p", "verdict"]
    rows = []
    for d in differences:
        test, _, metric = str(d["metric"]).rpartition(".")
        points = f"{100 * d['delta']:+.1f} [{100 * d['ci95'][0]:+.1f}, {100 * d['ci95'][1]:+.1f}]"
        name = f"{test_title(test)}, {METRICS.get(metric, metric)}"
        rows.append([f"{d['a']} − {d['b']}", name, points, f"{d['p']:.3f}", str(d["verdict"])])
    return header, rows


def interval_text(value: float, interval: Sequence[float]) -> str:
    """Return ``70.9 [68.1, 73.4]``, in percent."""
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _detail(difference: Mapping[str, Any], benchmark: Mapping[str, Any]) -> str:
    encoders = {one["name"]: one for one in [*benchmark["encoders"], *benchmark.get("groups", [])]}
    test = difference["metric"].rpartition(".")[0]
    values = [
        f"{name} {interval_text(encoders[name][test]['balanced_accuracy'], encoders[name][test]['ci95'])} %"
        for name in (difference["b"], difference["a"])
    ]
    unit, count = benchmark["clusters"]["unit"], benchmark["clusters"]["count"]
    size = f"{count:,} {unit}s" if unit == "slide" and test == "mil" else f"{benchmark['num_test']:,} test tiles"
    more = f", {count:,} {unit}s" if test != "mil" and unit != "tile" else ""
    return f"{'; '.join(values)}; {size}{more}."


def _accuracy_plot(encoders: Sequence[Mapping[str, Any]]) -> str:
    estimates = [
        _estimate(
            f"{encoder['name']}, {test_title(key)}", encoder[key]["balanced_accuracy"], encoder[key]["ci95"], number
        )
        for test in TESTS
        for key in dict.fromkeys(key for encoder in encoders for key in encoder if key.partition("@")[0] == test)
        for number, encoder in enumerate(encoders)
        if "balanced_accuracy" in encoder.get(key, {})
    ]
    return forest_plot(estimates, title="Balanced accuracy with 95 % intervals", x_label="balanced accuracy, %")


def _difference_plot(differences: Sequence[Mapping[str, Any]]) -> str:
    pairs = list(dict.fromkeys((d["a"], d["b"]) for d in differences))
    estimates = [
        _estimate(
            f"{d['a']} − {d['b']}, {test_title(d['metric'].rpartition('.')[0])}",
            d["delta"],
            d["ci95"],
            pairs.index((d["a"], d["b"])),
        )
        for d in differences
        if d["metric"].endswith("balanced_accuracy")
    ]
    title = "Differences in balanced accuracy with 95 % intervals"
    return forest_plot(estimates, title=title, x_label="points", zero_line=True)


def _estimate(name: str, value: float, interval: Sequence[float], colour: int) -> Estimate:
    return Estimate(name, 100 * value, 100 * interval[0], 100 * interval[1], colour)
