"""The learner's file: the first prediction of a claim counts, a headless run leaves it alone."""

import json
from dataclasses import replace

import pytest
from three_claims import THREE_CLAIMS

from nbkit.lab.evidence.diary import Diary, KeptPrediction, measure_calibration
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.predictions import Prediction
from nbkit.lab.evidence.register import load_claims
from nbkit.lab.evidence.verdicts import judge
from nbkit.lab.lesson import Lesson

NEAR, _, CYCLE = load_claims("lr_finder", THREE_CLAIMS).values()


@pytest.fixture
def diary(tmp_path):
    return Diary(tmp_path / "mine.jsonl")


def scored(prediction, low, high):
    return prediction.score_against(
        judge(prediction.claim, Interval((low + high) / 2, low, high, 8))
    )


def test_a_prediction_is_kept_and_scored(diary):
    mine = Prediction(CYCLE, 0.5, 80)
    assert diary.read_predictions() == {}
    assert diary.keep_prediction(mine)
    kept = KeptPrediction(CYCLE.id, "lr_finder", 0.5, 80, settings={})
    assert diary.read_predictions() == {CYCLE.id: kept}
    assert diary.keep_score(scored(mine, 0.4, 0.7))
    (entry,) = diary.read_predictions().values()
    assert (entry.right, entry.inside) == (True, True)
    assert entry.brier == pytest.approx(0.04)  # (0.8 - 1)^2


def test_only_the_first_prediction_of_a_claim_counts(diary):
    first, second = Prediction(CYCLE, 1.5, 80), Prediction(CYCLE, 0.5, 99)
    assert diary.keep_prediction(first)
    assert not diary.keep_prediction(second)
    assert not diary.keep_score(scored(second, 0.4, 0.7))  # that one knew
    assert diary.keep_score(scored(first, 0.4, 0.7))
    assert not diary.keep_score(scored(first, 1.2, 1.7))  # and the first result stays
    (entry,) = diary.read_predictions().values()
    assert (entry.guess, entry.confidence, entry.right) == (1.5, 80, False)


def test_a_prediction_is_scored_at_its_own_settings_only(diary):
    mine = Prediction(CYCLE, 0.5, 80, {"momentum": 0.9})
    assert diary.keep_prediction(mine)
    assert diary.read_predictions()[CYCLE.id].settings == {"momentum": 0.9}
    there = judge(CYCLE, Interval(0.5, 0.4, 0.6, 8))
    at_half, at_own = (replace(there, settings={"momentum": m}) for m in (0.5, 0.9))
    assert not diary.keep_score(mine.score_against(at_half))
    # The same numbers for other settings, in a kernel that was started again: not this prediction.
    other = Prediction(CYCLE, 0.5, 80, {"momentum": 0.5})
    assert not diary.keep_score(other.score_against(at_half))
    assert diary.read_predictions()[CYCLE.id].right is None
    assert diary.keep_score(mine.score_against(at_own))


def test_a_line_of_an_earlier_version_has_no_settings_and_is_scored(diary):
    diary.keep_prediction(Prediction(CYCLE, 0.5, 80))
    diary.path.write_text(diary.path.read_text().replace(', "settings": {}', ""))
    assert diary.read_predictions()[CYCLE.id].settings is None
    mine = Prediction(CYCLE, 0.5, 80, {"momentum": 0.9})
    verdict = replace(judge(CYCLE, Interval(0.5, 0.4, 0.6, 8)), settings={"momentum": 0.9})
    assert diary.keep_score(mine.score_against(verdict))


def test_a_measurement_that_decides_nothing_scores_nothing(diary):
    mine = Prediction(CYCLE, 0.5, 80)
    diary.keep_prediction(mine)
    assert not diary.keep_score(scored(mine, 0.9, 1.1))
    (entry,) = diary.read_predictions().values()
    assert entry.right is None


def test_two_claims_stand_beside_each_other(diary):
    for claim in (NEAR, CYCLE):
        diary.keep_prediction(Prediction(claim, 1.1, 60))
    diary.keep_score(scored(Prediction(CYCLE, 1.1, 60), 0.4, 0.7))
    assert [(e.claim, e.right) for e in diary.read_predictions().values()] == [
        (NEAR.id, None),
        (CYCLE.id, False),
    ]


@pytest.mark.parametrize(
    "line",
    [
        *("{", "3", "{}", '{"claim": "x", "when": "y"}', '{"claim": "x", "right": true}'),
        '{"claim": "x", "lesson": "l", "guess": 1, "confidence": "high", "when": "y"}',
        '{"claim": "x", "lesson": "l", "guess": "big", "confidence": 80, "when": "y"}',
    ],
)
def test_a_line_that_is_no_prediction_is_named(diary, line):
    diary.keep_prediction(Prediction(CYCLE, 0.5, 80))
    with diary.path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"mine.jsonl, line 2 is not a pred.*delete the file"):
        diary.read_predictions()


def entry(confidence, right):
    return KeptPrediction("c", "l", 1.0, confidence, right, False, (confidence / 100 - right) ** 2)


def test_calibration_groups_by_confidence():
    entries = [entry(50, True), entry(65, False), entry(66, True), entry(99, True)]
    told = measure_calibration([*entries, KeptPrediction("open", "l", 1.0, 90)])
    assert told.groups == [(50, 65, 57.5, 1, 2), (66, 80, 66.0, 1, 1), (81, 99, 99.0, 1, 1)]
    assert told.scored == 4
    assert told.brier == pytest.approx((0.25 + 0.4225 + 0.1156 + 0.0001) / 4)
    assert "50 to 65 %  58 %        1 of 2" in str(told)


def test_without_a_score_there_is_no_calibration():
    with pytest.raises(ValueError, match="no prediction has been scored"):
        measure_calibration([KeptPrediction("open", "l", 1.0, 90)])


@pytest.fixture
def opened(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)
    return Lesson("lr_finder", {}, claims=THREE_CLAIMS)


def test_a_lesson_keeps_and_scores_what_a_learner_predicts(opened, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("NBKIT_LIVE", "1")
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **_: shown.append(data))
    opened.calibration()
    assert "No prediction has been scored yet" in capsys.readouterr().out
    opened.predict(CYCLE.id, guess=0.5, confidence=80)
    opened.verdict(CYCLE.id, Interval(0.5, 0.4, 0.6, 8))
    opened.reveal()
    said = "you said 0.5, 80 % sure of the side; measured 0.5 [0.4, 0.6] (95% interval, n = 8). "
    assert shown[-1]["text/plain"].startswith(said + "lr-finder-onecycle: side right")
    opened.calibration()
    first, second = map(json.loads, (tmp_path / "my_predictions.jsonl").read_text().splitlines())
    assert (first["guess"], first["confidence"], second["right"]) == (0.5, 80, True)

    again = Lesson("lr_finder", {}, claims=THREE_CLAIMS)
    again.predict(CYCLE.id, guess=0.4, confidence=99)
    said = "an earlier prediction of it (0.5, 80 %); that one counts there, and nothing replaces it"
    assert said in shown[-1]["text/plain"]


def test_a_folder_that_cannot_be_written_does_not_stop_the_lesson(opened, monkeypatch):
    monkeypatch.setenv("NBKIT_LIVE", "1")
    opened.predictions.diary = Diary(opened.predictions.diary.path / "nowhere" / "mine.jsonl")
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **_: shown.append(data))
    opened.predict(CYCLE.id, guess=0.5, confidence=80)
    assert "mine.jsonl: it is not kept" in shown[-1]["text/plain"]


def test_a_headless_run_leaves_the_file_alone(opened, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("NBKIT_LIVE", "0")
    (tmp_path / "my_predictions.jsonl").write_text("not even read")
    opened.predict(CYCLE.id, guess=0.5, confidence=80)
    opened.verdict(CYCLE.id, Interval(0.5, 0.4, 0.6, 8))
    opened.reveal()
    opened.calibration()
    assert (tmp_path / "my_predictions.jsonl").read_text() == "not even read"
    assert "Your own predictions appear here" in capsys.readouterr().out
