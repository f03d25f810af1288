"""Verdicts are computed: by the interval against the margin, and by nothing else."""

import json
import math

import pytest

from nbkit.lab import claims
from nbkit.lab.claims import Claim, judge, load_claims
from nbkit.lab.stats import Interval


def claim(kind="ratio_below", margin=1.25, n=8):
    return Claim(
        "id", "01_x", "It helps.", "somebody", "a / b", kind, n, "yes", "no", "open", margin
    )


@pytest.mark.parametrize(
    ("low", "high", "verdict", "takeaway"),
    [
        (0.9, 1.249, "SUPPORTED", "yes"),
        (1.251, 2.0, "REFUTED", "no"),
        (0.9, 1.3, "INCONCLUSIVE", "open"),
        (0.9, 1.25, "INCONCLUSIVE", "open"),
        (1.25, 1.3, "INCONCLUSIVE", "open"),
        (0.9, math.inf, "INCONCLUSIVE", "open"),
        (math.inf, math.inf, "REFUTED", "no"),
    ],
)
def test_a_ratio_is_judged_by_its_whole_interval(low, high, verdict, takeaway):
    got = judge(claim(), Interval(1.0, low, high, 8))
    assert (got.verdict, got.takeaway(), str(got)) == (verdict, takeaway, f"id  {verdict}")


@pytest.mark.parametrize(
    ("pairs", "verdict", "reason"),
    [
        ([True] * 8, "SUPPORTED", "8 of 8 pairs are equal"),
        ([True] * 7 + [False], "REFUTED", "7 of 8 pairs are equal"),
        ([False] * 8, "REFUTED", "0 of 8 pairs are equal"),
    ],
)
def test_an_exact_claim_needs_every_pair(pairs, verdict, reason):
    got = judge(claim("exact", None), pairs)
    assert (got.verdict, got.reason) == (verdict, reason)


@pytest.mark.parametrize("measured", [Interval(0.5, 0.4, 0.6, 7), [True] * 7])
def test_fewer_seeds_than_stated_are_no_verdict(measured):
    kind, margin = ("exact", None) if isinstance(measured, list) else ("ratio_below", 1.25)
    got = judge(claim(kind, margin), measured)
    assert (got.verdict, got.reason) == ("SKIPPED", "7 of the 8 seeds it needs")
    assert got.takeaway() == "It helps. Not judged in this run."


def test_a_verdict_survives_strict_json_with_its_numbers_and_machine():
    told = judge(claim(), Interval(1.1, 0.9, math.inf, 8)).to_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert (told["effect"], told["interval"], told["n"]) == (1.1, [0.9, None], 8)
    assert told["machine"]["hardware"] and told["machine"]["torch"]


def test_the_shipped_claims_are_whole():
    shipped = load_claims("01_lr_finder")
    assert len(shipped) == 3
    assert all(entry.n >= 8 and entry.sentence.endswith(".") for entry in shipped.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no claim of lesson '01_lr_finder'"),
        ('[a]\nlesson = "01_lr_finder"\nsentense = "x"', "wrong or missing: .*sentense"),
    ],
)
def test_a_broken_claims_file_is_refused(tmp_path, monkeypatch, text, message):
    (tmp_path / "claims.toml").write_text(text)
    monkeypatch.setattr(claims.data, "file", lambda name: tmp_path / name)
    with pytest.raises(ValueError, match=message):
        load_claims("01_lr_finder")


@pytest.mark.parametrize(
    ("kind", "margin", "message"),
    [
        ("better", 1.0, "kind must be 'ratio_below' or 'exact', got 'better'"),
        ("exact", 1.0, "a margin belongs to 'ratio_below'"),
        ("ratio_below", None, "a margin belongs to 'ratio_below'"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(kind, margin, message):
    with pytest.raises(ValueError, match=message):
        claim(kind, margin)
