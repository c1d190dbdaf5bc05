"""The pictures: what is drawn, not how it looks."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from toolkit.report import alignment, bars, curves, det, style, timeline
from toolkit.report.timeline import Region
from toolkit.score.formats import Turn

RUNS = {
    "a": [
        {"step": s, "split": "train", "loss": 1 / s, "lr": 1e-3, "elapsed": 60.0 * s, "epoch": 1}
        for s in range(1, 9)
    ]
    + [{"step": 4, "split": "valid", "loss": 0.5, "accuracy": 0.7, "elapsed": 240.0}],
    "b": [{"step": 1, "split": "train", "loss": float("nan")}, {"step": 2, "split": "train", "loss": 2.0}],
}


def lines(figure: Figure) -> dict[str, np.ndarray]:
    return {str(line.get_label()): line.get_xydata() for line in figure.axes[0].lines}


def det_curve() -> det.DetCurve:
    fpr, fnr = np.array([0, 0.1, 0.2, 0.5, 1]), np.array([1, 0.5, 0.2, 0.1, 0])
    return det.DetCurve(fpr, fnr, eer=0.2, min_dcf=1.0, p_target=0.01)


def test_curves_keep_finite_points_and_convert_time() -> None:
    assert curves.points(RUNS["b"], "loss", "train").tolist() == [[2.0, 2.0]]
    assert curves.points(RUNS["a"], "loss", "valid", "elapsed").tolist() == [[4.0, 0.5]]
    assert curves.points(RUNS["a"], "accuracy", "train").shape == (0, 2)
    assert curves.values_of(RUNS) == ["loss", "accuracy", "lr"]


def test_curves_draws_every_run_and_labels_the_axes() -> None:
    figure = curves.curves(RUNS, "loss", "CTC loss (nats per token)", log_x=True)
    axes = figure.axes[0]
    assert {"a", "b"} <= lines(figure).keys()
    assert axes.get_xscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step (updates)", "CTC loss (nats per token)")


def test_long_curves_are_thinned_but_keep_their_mean() -> None:
    line = np.stack([np.arange(10_000.0), np.random.default_rng(0).normal(size=10_000)], axis=1)
    thin = curves._thinned(line)
    assert len(thin) == curves.MAX_POINTS
    assert np.allclose(thin.mean(axis=0), line.mean(axis=0))


def test_det_plot_uses_probit_axes_and_marks_both_points() -> None:
    figure = det.det_plot({"real": det_curve()})
    drawn = figure.axes[0].lines
    assert np.allclose(
        drawn[1].get_xdata()[1:4], [-1.2815515655, -0.8416212336, 0.0]
    )  # probit of 10 %, 20 %, 50 %
    assert np.allclose(drawn[2].get_xydata(), -0.8416212336)  # EER of 20 %
    assert det.min_dcf_point(det_curve()) == (0.0, 1.0)
    label = drawn[1].get_label()
    assert label == "real: EER 20.00 %, minDCF(0.01) 1.000"


def test_min_dcf_point_moves_with_the_prior() -> None:
    assert det.min_dcf_point(det_curve()._replace(p_target=0.99)) == (1.0, 0.0)
    assert det.min_dcf_point(det_curve()._replace(p_target=0.5)) == (0.2, 0.2)


def test_histogram_counts_trials() -> None:
    scores, labels = np.linspace(-1, 1, 40), np.repeat([0, 1], [30, 10])
    figure = det.score_histogram(scores, labels, threshold=0.3)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["non-target (30 trials)", "target (10 trials)", "threshold of equal error"]


def test_error_regions() -> None:
    reference = [Turn(0, 4, "a"), Turn(3, 6, "b"), Turn(8, 9, "a")]
    hypothesis = [Turn(0, 3.5, "1"), Turn(4, 7, "1"), Turn(8, 9, "2")]
    found = timeline.error_regions(reference, hypothesis, {"1": "a", "2": "b"})
    assert found == [
        Region(3, 4, "miss"),
        Region(4, 6, "confusion"),
        Region(6, 7, "false alarm"),
        Region(8, 9, "confusion"),
    ]


def test_error_regions_of_equal_turns_are_empty() -> None:
    turns = [Turn(0, 2, "a"), Turn(1, 3, "b")]
    assert (
        timeline.error_regions(
            turns, [turn._replace(speaker="x" + turn.speaker) for turn in turns], {"xa": "a", "xb": "b"}
        )
        == []
    )


def test_timeline_has_a_row_a_speaker_and_one_for_errors() -> None:
    reference = [Turn(0, 2, "anna"), Turn(2, 3, "boris")]
    figure = timeline.timeline(reference, [Turn(0, 2, "s0"), Turn(2, 2.5, "s9")], {"s0": "anna"}, title="m1")
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["anna → s0", "boris → not found", "not in the reference: s9", "errors"]


def test_timeline_without_hypothesis_and_without_anything() -> None:
    assert timeline.timeline([Turn(0, 1, "a")], [], {}).axes
    assert timeline.timeline([], [], {}).axes


def test_intervals_draws_values_as_given() -> None:
    figure = bars.intervals([("a", 30.0, 25.0, 36.0), ("b", 20.0, float("nan"), float("nan"))], "WER (%)")
    assert [bar.get_width() for bar in figure.axes[0].patches] == [30.0, 20.0]
    assert "30.00" in [text.get_text() for text in figure.axes[0].texts]


def test_groups_times_and_confusion() -> None:
    figure = bars.groups({"1": {"purity": 0.4, "PNMI": 0.3}, "2": {"purity": 0.5}}, "share")
    assert sorted(bar.get_height() for bar in figure.axes[0].patches) == [0.3, 0.4, 0.5]
    assert [bar.get_width() for bar in bars.times({"fetch": 30, "pretrain": 120}).axes[0].patches] == [
        0.5,
        2.0,
    ]
    cells = bars.confusion(np.array([[3, 1], [0, 2]]), ["1", "2"], "reference", "found").axes[0].texts
    assert [text.get_text() for text in cells] == ["3", "1", "2"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.24, "8.2 s"), (59.99, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert bars.duration(seconds) == text


def test_alignment_places_tokens() -> None:
    tokens = [alignment.Token(0.1, 0.3, "he"), alignment.Token(0.3, 0.5, "$x<y")]
    posteriors = alignment.Posteriors(np.full((50, 4), 0.25), ["-", "a", "b", "c"], 0.02)
    figure = alignment.alignment(np.random.default_rng(0).normal(size=(100, 80)), 0.01, tokens, posteriors)
    assert [text.get_text() for text in figure.axes[1].texts] == ["he", "$x<y"]
    assert [text.get_position()[0] for text in figure.axes[1].texts] == pytest.approx([0.2, 0.4])
    assert figure.axes[0].get_xlim() == (0, 1.0)


def test_svg_is_clean_themed_and_the_same_twice() -> None:
    def draw() -> str:
        return style.to_svg(det.det_plot({'<b>"&': det_curve()}), "pic", "a <picture>")

    svg = draw()
    assert svg == draw()
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == "a <picture>"
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids)) and all(name.startswith("pic-") for name in ids)
    assert set(re.findall(r'(?:href="#|url\(#)([\w-]+)', svg)) == set(ids)
    assert "http" not in svg and "<style" not in svg
    assert "var(--series-0)" in svg and style.SERIES[0] not in svg
    assert any('<b>"&' in (element.text or "") for element in root.iter())
