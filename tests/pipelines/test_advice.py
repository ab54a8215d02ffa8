from __future__ import annotations

import pytest

from pipelines.advice import advice
from pipelines.settings import AnalysisSettings, DetectorSettings

OTHERS = {"start": 1.0, "scan": 0.2, "decode": 2.0, "follow": 1.5, "score": 1.5, "write": 0.3, "other": 0.5}


@pytest.mark.parametrize(
    ("most", "settings", "bound", "remedy"),
    [
        ("start", AnalysisSettings(), "the start of worker processes (start)", "more videos"),
        ("decode", AnalysisSettings(), "decoding (decode)", "smaller copies"),
        ("detect", AnalysisSettings(), "full detections of faces (detect)", "--min-face 5%"),
        ("detect", AnalysisSettings(detector=DetectorSettings(min_face_share=0.05)), "(detect)", "--detect-every 2"),
        ("detect", AnalysisSettings(detector=DetectorSettings(mode="exact")), "(detect)", "--detect tracked"),
        ("follow", AnalysisSettings(), "following faces", "--fps 5"),
        ("score", AnalysisSettings(fps=5), "scoring faces (score)", "a lower --fps"),
        ("commit", AnalysisSettings(), "writing rows (write)", "longer videos"),
        ("hash", AnalysisSettings(), "reading the files", "disk"),
    ],
)
def test_the_bound_is_named_with_what_helps_and_is_not_in_use_yet(
    most: str, settings: AnalysisSettings, bound: str, remedy: str
) -> None:
    output = advice({**OTHERS, most: 10.0}, settings)
    assert output.startswith("Bound by ")
    assert bound in output
    assert remedy in output
    assert "%" in output.partition(".")[0]


def test_every_remedy_is_an_option_of_the_command() -> None:
    from flows.cli.analyze import analyze

    known = {option for parameter in analyze.params for option in parameter.opts}
    assert {"--fps", "--every", "--detect", "--detect-every", "--min-face"} <= known


def test_a_run_that_did_nothing_has_no_bound() -> None:
    assert advice({}, AnalysisSettings()).startswith("Nothing was analysed")
