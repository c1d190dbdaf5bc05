"""The pictures: what is drawn, not how it looks."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from toolkit.report import alignment, bars, curves, det, style, timeline
from toolkit.report.timeline import Region
from toolkit.score import der
from toolkit.score.formats import Turn
from toolkit.score.recording import Timeline

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


def system(p_target: float = 0.01) -> det.System:
    """Four trials of each kind; misses and false alarms are equal at one of four."""
    scores = np.array([5.0, 4.0, 3.0, 1.0, 3.5, 0.5, 0.3, 0.1])
    return det.score_system(scores, np.repeat([True, False], 4), p_target)


def pieces(reference: list[Turn], hypothesis: list[Turn], collar: float = 0.0) -> Timeline:
    return der.score({"m": reference}, {"m": hypothesis}, collar=collar).recordings[0].timeline


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
    one = system()
    assert one.fpr.tolist() == [0, 0, 0, 0.25, 0.25, 0.25, 0.5, 0.75, 1]
    figure = det.det_plot({"real": one})
    drawn = figure.axes[0].lines
    quarter = -0.6744897502  # the probit of 25 %
    assert drawn[1].get_xdata()[3] == pytest.approx(quarter)
    assert drawn[1].get_ydata()[4] == pytest.approx(quarter)
    assert np.allclose(drawn[2].get_xydata(), quarter)
    assert drawn[3].get_ydata() == pytest.approx(
        0.0
    )  # least cost: no false alarm, half of the targets missed
    assert drawn[1].get_label() == "real: EER 25.00 %, minDCF(0.01) 0.500"
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("false alarms (%)", "misses (%)")


@pytest.mark.parametrize(("p_target", "point"), [(0.01, (0.0, 0.5)), (0.99, (0.25, 0.0))])
def test_min_dcf_point_moves_with_the_prior(p_target: float, point: tuple[float, float]) -> None:
    assert system(p_target).min_dcf_point == point


def test_histogram_counts_trials() -> None:
    figure = det.score_histogram(system(), "real")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["non-target (4 trials)", "target (4 trials)", "threshold of equal error"]


def test_error_regions() -> None:
    reference = [Turn(0, 4, "a"), Turn(3, 6, "b"), Turn(8, 9, "a")]
    hypothesis = [Turn(0, 3.5, "1"), Turn(4, 7, "1"), Turn(8, 9, "2")]
    assert timeline.error_regions(pieces(reference, hypothesis)) == [
        Region(3, 4, "miss"),
        Region(4, 6, "confusion"),
        Region(6, 7, "false alarm"),
        Region(8, 9, "confusion"),
    ]


def test_error_regions_of_equal_turns_are_empty() -> None:
    turns = [Turn(0, 2, "a"), Turn(1, 3, "b")]
    assert timeline.error_regions(pieces(turns, [Turn(0, 2, "x"), Turn(1, 3, "y")])) == []


def test_timeline_has_a_row_a_speaker_and_one_for_errors() -> None:
    reference, hypothesis = [Turn(0, 2, "anna"), Turn(2, 3, "boris")], [Turn(0, 2, "s0"), Turn(4, 5, "s9")]
    figure = timeline.timeline(reference, hypothesis, pieces(reference, hypothesis), title="m1")
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["anna → s0", "boris → not found", "not in the reference: s9", "errors"]
    assert figure.axes[0].get_xlim() == (0, 5)


def test_timeline_of_a_stretch_and_of_silence() -> None:
    reference = [Turn(0, 50, "anna"), Turn(50, 90, "boris")]
    known = pieces(reference, [])
    figure = timeline.timeline(reference, [], known, start=60, seconds=20)
    assert figure.axes[0].get_xlim() == (60, 80)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["boris → not found", "errors"]
    assert timeline.timeline([], [], known, start=100).axes[0].get_xlim() == (100, 101)


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
    posteriors = alignment.Posteriors(np.full((50, 4), 0.25), 0.02)
    figure = alignment.alignment(np.random.default_rng(0).normal(size=(100, 80)), 0.01, tokens, posteriors)
    assert [text.get_text() for text in figure.axes[1].texts] == ["he", "$x<y"]
    assert [text.get_position()[0] for text in figure.axes[1].texts] == pytest.approx([0.2, 0.4])
    assert figure.axes[0].get_xlim() == (0, 1.0)


def test_svg_is_clean_themed_and_the_same_twice() -> None:
    def draw() -> str:
        return style.to_svg(det.det_plot({'<b>"&': system()}), "pic", "a <picture>")

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
