"""Verdicts are computed: by the interval against the margin, and by nothing else."""

import json
import math
import re

import pytest
import torch
from scipy.stats import ttest_1samp

from nbkit.lab import shipped
from nbkit.lab.evidence import claims
from nbkit.lab.evidence.claims import Claim
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.proportions import accuracy_interval, proportion, proportion_difference
from nbkit.lab.evidence.register import all_claims, load_claims, without_lesson
from nbkit.lab.evidence.stats import mean_interval, paired_difference, paired_ratio
from nbkit.lab.evidence.verdicts import judge

REGISTERED = """
accumulation-better-per-example accumulation-halves-memory accumulation-is-the-large-batch
adagrad-against-sgd adam-against-sgd adamw-against-sgd amp-equal-accuracy amp-slower-when-small
amp-speed asynchronous-updates-cut-waiting batch-size-follows-hardware batchnorm-frozen-transfer
batchnorm-needs-running-statistics batchnorm-reestimation-repairs clipping-ends-lower
clipping-helps-under-adamw clipping-saves-at-high-lr cutmix-reduces-overfitting cyclical-lr-speeds
ddp-is-one-process ddp-no-sync-saves-time ddp-speed distillation-keeps-accuracy
distillation-shrinks float64-breaks gpu-ten-times init-kaiming-relu init-too-large-explodes
init-too-small-vanishes init-weight-norm-speeds init-weight-norm-steadies init-xavier-embedding
label-smoothing-reduces-overfitting lamb-against-sgd layerwise-lr-helps-transfer
light-architecture-saves-time local-updates-cut-communication lr-and-schedule-matter-most
lr-finder-near-best lr-finder-onecycle model-and-data-parallel-throughput nesterov-against-sgd
normalisation-speeds onecycle-ends-better plateau-helps-when-stalled preprocessing-must-agree
pruning-keeps-accuracy pruning-shrinks quantisation-keeps-accuracy quantisation-shrinks
randaugment-steadier rmsprop-against-sgd start-momentum start-momentum-tuned tuning-beats-hand
warmup-helps wsd-ends-lower wsd-needs-its-end
"""


def claim(kind="ratio below", margin=1.25, n=8, **more):
    """A claim; `kind` is its measure and its side, in two words."""
    words, (measure, _, side) = ("yes", "no", "open"), kind.partition(" ")
    about = ("id", "01_x", "It helps.", "somebody", "a / b")
    return Claim(*about, measure, side or None, n, *words, margin, **more)


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
        ([True] * 7 + [math.nan], "REFUTED", "7 of 8 pairs are equal"),
        ([torch.tensor(True)] * 8, "SUPPORTED", "8 of 8 pairs are equal"),
    ],
)
def test_an_exact_claim_needs_every_pair(pairs, verdict, reason):
    got = judge(claim("equality", None), pairs)
    assert (got.verdict, got.reason) == (verdict, reason)


@pytest.mark.parametrize("measured", [Interval(0.5, 0.4, 0.6, 7), [True] * 7])
def test_fewer_seeds_than_stated_are_no_verdict(measured):
    kind, margin = ("equality", None) if isinstance(measured, list) else ("ratio below", 1.25)
    got = judge(claim(kind, margin), measured)
    assert (got.verdict, got.reason) == ("SKIPPED", "7 of the 8 seeds it needs")
    assert str(got) == f"{got.claim.id}  SKIPPED (7 of the 8 seeds it needs)"
    assert got.takeaway() == "It helps. Not judged in this run."


def test_a_verdict_survives_strict_json_with_its_numbers_and_machine():
    told = judge(claim(), Interval(1.1, 0.9, math.inf, 8)).to_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert (told["effect"], told["interval"], told["n"]) == (1.1, [0.9, None], 8)
    assert told["machine"]["hardware"] and told["machine"]["torch"]


def test_the_shipped_claims_are_whole():
    shipped = load_claims("lr_finder")
    assert len(shipped) == 2
    assert all(entry.n >= 8 and entry.sentence.endswith(".") for entry in shipped.values())


def test_the_register_is_whole():
    """At the least one claim for each sentence of the course material, each with its source.

    Whoever takes an entry out, or adds one, says so here too.
    """
    register = all_claims()
    assert sorted(register) == sorted(REGISTERED.split())
    assert {"initialization", "batchnorm", "clipping"} <= lessons(register)
    assert {"amp", "accumulation", "ddp", "schedules", "transfer"} <= lessons(register)
    for entry in register.values():
        assert entry.sentence.endswith(".") and entry.metric and entry.n >= 8
        assert re.search(r"[12][09]\d\d|course|documentation|nbkit", entry.source)
    assert len({entry.sentence for entry in register.values()}) == len(register)


def test_what_needs_a_gpu_says_so():
    for name in ("amp-speed", "gpu-ten-times"):
        assert "cuda" in all_claims()[name].needs


def lessons(claims):
    return {claim.lesson for claim in claims.values()}


def test_claims_without_a_lesson_are_listed(tmp_path, monkeypatch):
    register = all_claims()
    assert "lr_finder" not in lessons(without_lesson())
    (tmp_path / "05_amp.ipynb").touch()
    monkeypatch.setattr(shipped, "lessons_dir", lambda: tmp_path)
    assert set(register) - set(without_lesson()) == set(load_claims("amp"))
    assert len(load_claims("amp")) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no claim of lesson 'lr_finder'"),
        ('[a]\nlesson = "lr_finder"\nsentense = "x"', "wrong or missing: .*sentense"),
    ],
)
def test_a_broken_claims_file_is_refused(tmp_path, monkeypatch, text, message):
    (tmp_path / "lr_finder").mkdir()
    (tmp_path / "lr_finder/claims.toml").write_text(text)
    monkeypatch.setattr(shipped, "LESSONS", tmp_path)
    with pytest.raises(ValueError, match=message):
        load_claims("lr_finder")


def test_one_id_in_two_files_is_refused(tmp_path, monkeypatch):
    one = (shipped.LESSONS / "start_here/claims.toml").read_text()
    for word in ("start_here", "somebodys"):
        (tmp_path / word).mkdir()
        (tmp_path / word / "claims.toml").write_text(one)
    monkeypatch.setattr(shipped, "LESSONS", tmp_path)
    monkeypatch.setattr("nbkit.lab.evidence.register.read_course", list)
    message = "'start-momentum' stands in the claims of somebodys and of start_here"
    with pytest.raises(ValueError, match=message):
        all_claims()


@pytest.mark.parametrize(
    ("kind", "margin", "message"),
    [
        ("better", 1.0, "measure must be among ratio, .*, equality, got 'better'"),
        ("ratio", 1.0, "side must be among below, above, within, got None"),
        ("ratio beside", 1.0, "side must be among below, above, within, got 'beside'"),
        ("ratio within", 1.0, 'side = "within" belongs to a difference, not to a ratio'),
        ("equality", 1.0, "an equality has no margin: every pair is equal. Take it out"),
        ("equality below", 1.0, "an equality has no side and no margin"),
        ("ratio below", None, "a ratio needs a margin: the size that it is below"),
        ("ratio above", 0.0, "a ratio above it must lie between 0.0 and inf, got 0.0"),
        ("difference within", -0.1, "a difference within it must lie .* 0.0 and inf, got -0.1"),
        ("difference below", math.nan, "between -inf and inf, got nan"),
        ("proportion below", 1.0, "a proportion below it must lie between 0.0 and 1.0, got 1.0"),
        ("proportion_difference above", -1.0, "between -1.0 and 1.0, got -1.0"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(kind, margin, message):
    with pytest.raises(ValueError, match=message):
        claim(kind, margin)


@pytest.mark.parametrize(
    ("kind", "margin", "axis", "message"),
    [
        (
            "ratio below",
            1.25,
            (0.0, 4.0),
            "low < high, above 0, and .* for a ratio, got .0.0, 4",
        ),
        ("ratio below", 1.25, (4.0, 0.5), r"low < high, .*, got \[4.0, 0.5\]"),
        ("ratio below", 1.25, (0.5, 1.25), "the margin 1.25 must lie inside the axis, got .0.5, 1"),
        ("proportion above", 0.6, (0.0, 1.5), "between 0 and 1 for a proportion, got .0.0, 1.5"),
        ("difference within", 0.1, (-0.05, 0.2), "the margin 0.1 must lie inside the axis"),
        ("difference within", 0.1, (-0.2, 0.1), "the margin 0.1 must lie inside the axis"),
        ("equality", None, (0.0, 1.0), "an equality has no axis"),
    ],
)
def test_an_axis_that_cannot_show_the_margin_is_refused(kind, margin, axis, message):
    with pytest.raises(ValueError, match=message):
        claim(kind, margin, axis=axis)


@pytest.mark.parametrize(
    ("kind", "margin", "axis"),
    [
        ("ratio below", 1.25, (0.5, 4.0)),
        ("proportion above", 0.6, (0.0, 1.0)),
        ("difference within", 0.1, (-0.2, 0.2)),
        ("difference below", -0.1, (-1.0, 0.5)),
    ],
)
def test_an_axis_with_its_margin_inside_is_taken(kind, margin, axis):
    assert claim(kind, margin, axis=axis).axis == axis


def test_the_better_side_is_the_claims_own_unless_it_names_the_other():
    assert (claim().better_side, claim(better="above").better_side) == ("below", "above")
    assert claim("difference within", 0.1).better_side is None
    assert claim("equality", None).better_side is None


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("digits: 2-layer MLP, 100 steps", "digits"),
        ("2-layer MLP on 8x8 digits, 100 steps", "2-layer MLP on 8x8 digits"),
        ("", "this task"),
    ],
)
def test_a_task_is_named_by_its_first_words(task, name):
    assert claim(task=task).task_name == name


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"better": "left"}, 'better must be "below" or "above", got \'left\''),
        ({"n_elsewhere": 0}, "n_elsewhere must be at least 1, got 0"),
        ({"needs": ("cuda", "luck")}, "needs must be among cuda, .*, got 'luck'"),
        ({"over": "digits"}, "over must be among seeds, test examples, timings, got 'digits'"),
        ({"spread": 0.0}, "spread must be a number above 0, got 0.0"),
        ({"n": 0}, "n must be at least 1, got 0"),
        (
            {"kind": "proportion above", "margin": 0.5, "deterministic": True},
            "deterministic belongs to a ratio or a difference, not to 'proportion'",
        ),
        (
            {"kind": "equality", "margin": None, "deterministic": True},
            "deterministic belongs to a ratio or a difference, not to 'equality'",
        ),
    ],
)
def test_a_claim_with_an_unknown_word_is_refused(more, message):
    with pytest.raises(ValueError, match=message):
        claim(**more)


@pytest.mark.parametrize(
    ("kind", "margin", "low", "high", "verdict", "reason"),
    [
        ("ratio above", 1.5, 1.51, 1.9, "SUPPORTED", "the whole interval lies above the margin"),
        ("ratio above", 1.5, 1.1, 1.49, "REFUTED", "the whole interval lies below the margin"),
        ("ratio above", 1.5, 1.4, 1.6, "INCONCLUSIVE", "the margin lies inside the interval"),
        ("difference below", -0.1, -0.3, -0.2, "SUPPORTED", "below the margin"),
        ("difference below", -0.1, 0.0, 0.1, "REFUTED", "above the margin"),
        ("difference above", 0.1, 0.2, 0.3, "SUPPORTED", "above the margin"),
        ("proportion above", 0.5, 0.96, 1.0, "SUPPORTED", "above the margin"),
        ("proportion below", 0.5, 0.96, 1.0, "REFUTED", "above the margin"),
        ("proportion_difference below", -0.2, -0.9, -0.3, "SUPPORTED", "below the margin"),
        ("difference within", 0.1, -0.09, 0.09, "SUPPORTED", "lies between the margins"),
        ("difference within", 0.1, -0.3, -0.11, "REFUTED", "lies outside the margins"),
        ("difference within", 0.1, 0.11, 0.3, "REFUTED", "lies outside the margins"),
        ("difference within", 0.1, 0.05, 0.11, "INCONCLUSIVE", "the margin lies inside"),
        ("difference within", 0.1, -0.2, 0.2, "INCONCLUSIVE", "the margin lies inside"),
    ],
)
def test_each_kind_is_judged_on_its_side(kind, margin, low, high, verdict, reason):
    got = judge(claim(kind, margin), Interval((low + high) / 2, low, high, 8))
    assert got.verdict == verdict
    assert reason in got.reason


@pytest.mark.parametrize("kind", ["difference within", "difference below", "difference above"])
def test_a_difference_of_just_the_margin_is_never_decided_by_rounding(kind):
    """3 of 300 digits are 0.01 on paper; in floats they are a little more or less."""
    stated = claim(kind, 0.01)
    for k in range(298):
        difference = (k + 3) / 300 - k / 300
        assert stated.decide_range(difference, difference) == "INCONCLUSIVE"
        assert stated.decide_range(-difference, difference) == "INCONCLUSIVE"


@pytest.mark.parametrize("kind", ["ratio below", "ratio above"])
@pytest.mark.parametrize("margin", [0.1, 1.25, 8.0])
def test_a_ratio_of_just_the_margin_is_never_decided_by_rounding(kind, margin):
    for base in (0.1, 0.3, 0.7, 1.1, 3.0):
        ratio = paired_ratio([base * margin] * 8, [base] * 8)
        assert claim(kind, margin).decide_range(ratio.low, ratio.high) == "INCONCLUSIVE"


@pytest.mark.parametrize(
    ("kind", "margin", "bound", "verdict"),
    [
        ("difference below", 0.01, 0.01 - 1e-8, "SUPPORTED"),
        ("difference above", -0.01, -0.01 + 1e-8, "SUPPORTED"),
        ("difference within", 0.01, 0.01 + 1e-8, "REFUTED"),
        ("difference within", 0.01, -0.01 - 1e-8, "REFUTED"),
        ("difference within", 0.01, -0.01 + 1e-8, "SUPPORTED"),
        ("ratio above", 1e6, 1e6 + 1e-4, "INCONCLUSIVE"),
        ("ratio above", 1e6, 1e6 + 1e-2, "SUPPORTED"),
    ],
)
def test_what_misses_the_margin_by_more_than_rounding_is_decided(kind, margin, bound, verdict):
    assert claim(kind, margin).decide_range(bound, bound) == verdict


ALIKE = [
    ("ratio below", 0.5, paired_ratio([0.1] * 8, [1.0] * 8), "ratios"),
    ("ratio above", 0.5, paired_ratio([0.1] * 8, [1.0] * 8), "ratios"),
    ("difference above", 0.01, paired_difference([0.95] * 8, [0.9] * 8), "differences"),
    ("difference below", 0.01, paired_difference([0.95] * 8, [0.9] * 8), "differences"),
    ("difference within", 0.01, paired_difference([0.9, 0.95] * 4, [0.9, 0.95] * 4), "differences"),
]


@pytest.mark.parametrize(("kind", "margin", "measured", "what"), ALIKE)
def test_copies_of_one_number_decide_nothing(kind, margin, measured, what):
    got = judge(claim(kind, margin), measured)
    assert (got.verdict, got.p_value > 0.49) == ("INCONCLUSIVE", True)
    assert got.reason.startswith(f"the 8 {what} are all the same: without any spread they are one")
    assert got.to_dict()["interval"] == [measured.estimate, measured.estimate]


@pytest.mark.parametrize(("kind", "margin", "measured", "what"), ALIKE)
def test_what_is_counted_may_be_the_same_each_time(kind, margin, measured, what):
    got = judge(claim(kind, margin, deterministic=True), measured)
    wanted = "SUPPORTED" if got.claim.holds_for(measured.estimate) else "REFUTED"
    assert (got.verdict, got.reason.startswith("the whole interval lies")) == (wanted, True)


def test_what_is_counted_and_differs_all_the_same_is_judged_by_its_interval():
    """Bytes of networks that the seed draws: each is exact, and which networks came is chance."""
    counted = claim("ratio below", 0.5, deterministic=True)
    far = judge(counted, paired_ratio([0.2, 0.25] * 4, [1.0] * 8))
    near = judge(counted, paired_ratio([0.2, 0.9] * 4, [1.0] * 8))
    assert (far.verdict, near.verdict) == ("SUPPORTED", "INCONCLUSIVE")


def test_accuracies_in_float32_have_no_spread_by_rounding():
    """3 more of 300 digits right with each seed: in float32 the differences vary by 6e-8."""
    right = torch.arange(240, 256)
    more, fewer = (((right + extra) / 300).tolist() for extra in (3, 0))
    assert len({a - b for a, b in zip(more, fewer, strict=True)}) > 1
    got = judge(claim("difference above", 0.005), paired_difference(more, fewer))
    assert got.reason.startswith("the 16 differences are all the same")


@pytest.mark.parametrize(("kind", "verdict"), [("ratio below", "REFUTED"), ("ratio above", "SUPP")])
def test_runs_that_all_diverged_were_counted_and_decide(kind, verdict):
    lost, whole = [math.inf] * 8, [1.0] * 8
    assert judge(claim(kind, 1.25), paired_ratio(lost, whole)).verdict.startswith(verdict)
    other = {"REFUTED": "SUPPORTED", "SUPP": "REFUTED"}[verdict]
    got = judge(claim(kind, 1.25), paired_ratio(whole, lost))
    assert (got.verdict, got.to_dict()["interval"]) == (other, [0.0, 0.0])
    assert 0.004 < got.p_value <= 0.01  # of the sign test: 2 of 2^8


def test_the_register_says_what_is_counted():
    counted = {name for name, entry in all_claims().items() if entry.deterministic}
    assert counted == {"accumulation-halves-memory", "pruning-shrinks", "quantisation-shrinks"}


def test_equivalence_is_judged_at_90_percent_and_the_others_at_95():
    values, zeros = [0.1, -0.1, 0.2, 0.0, -0.2, 0.1, 0.0, -0.1], [0.0] * 8
    same = judge(claim("difference within", 0.2), paired_difference(values, zeros))
    assert (same.effect.confidence, same.verdict) == (0.9, "SUPPORTED")
    # Two one-sided t tests against the margin (Schuirmann 1987); the larger p decides.
    above = ttest_1samp(values, -0.2, alternative="greater").pvalue
    below = ttest_1samp(values, 0.2, alternative="less").pvalue
    assert same.p_value == pytest.approx(max(above, below), rel=1e-4)
    less = judge(claim("difference below", 0.2), paired_difference(values, zeros, confidence=0.5))
    assert less.effect.confidence == 0.95
    with pytest.raises(ValueError, match="id needs a 95% interval, got 90%"):
        judge(claim("difference below", 0.2), Interval(0, -1, 1, 8, confidence=0.9))


def test_the_p_value_is_the_t_tests_and_agrees_with_the_verdict():
    values = [0.1, 0.3, 0.2, 0.4, -0.1, 0.3, 0.2, 0.1]
    for margin in (-0.1, 0.0, 0.05, 0.0605, 0.061, 0.2, 0.4):
        got = judge(claim("difference above", margin), mean_interval(values))
        assert got.p_value == pytest.approx(max(1e-9, ttest_1samp(values, margin).pvalue), rel=1e-4)
        assert (got.p_value < 0.05) == (got.verdict != "INCONCLUSIVE")


def test_counts_are_judged_through_their_intervals():
    assert judge(claim("proportion below", 0.5), proportion(0, 8)).verdict == "SUPPORTED"
    rare = judge(claim("proportion above", 0.1, n=16), proportion(4, 16))
    assert (rare.effect.low > 0.1, rare.verdict) == (True, "INCONCLUSIVE")  # exactly, p is 0.068
    assert rare.reason == "the exact binomial test leaves the margin open"
    rarer = claim("proportion_difference below", 0.0)
    assert judge(rarer, proportion_difference(1, 16, 12, 16)).verdict == "SUPPORTED"
    assert judge(rarer, proportion_difference(12, 16, 1, 16)).verdict == "REFUTED"


@pytest.mark.parametrize(
    ("kind", "margin", "measured", "message"),
    [
        ("equality", None, Interval(1, 1, 1, 8), "a list of whether each pair is equal, got Int"),
        ("ratio below", 1.0, [True] * 8, "id measures ratio: expected an Interval, got .True"),
        ("proportion above", 0.5, accuracy_interval(9, 9), "over seeds.*over test examples"),
        ("ratio above", 2.0, paired_ratio([1, 2], [1, 1], over="timings"), "over timings: that is"),
        ("equality", None, True, "a list of whether each pair is equal, got True"),
        ("equality", None, "yes", "a list of whether each pair is equal, got 'yes'"),
        ("equality", None, {"a": True}, "a list of whether each pair is equal, got {"),
        ("ratio above", 2.0, 0.9, "id measures ratio: expected an Interval, got 0.9"),
        ("ratio above", 2.0, None, "was not measured, though this machine has what it needs"),
    ],
)
def test_what_was_measured_must_be_what_the_claim_is_about(kind, margin, measured, message):
    with pytest.raises(ValueError, match=message):
        judge(claim(kind, margin), measured)


def test_where_launch_refuses_there_are_no_two_processes(monkeypatch):
    needy = claim(needs=("two processes",))
    assert needy.find_missing_needs() == []
    monkeypatch.setattr(claims.sys, "platform", "win32")
    assert needy.find_missing_needs() == ["two processes"]


def test_what_the_machine_lacks_skips_the_claim(monkeypatch):
    monkeypatch.setitem(claims.NEEDS, "cuda", lambda: False)
    monkeypatch.setitem(claims.NEEDS, "two cores", lambda: False)
    needy = claim(needs=("cuda", "two processes", "two cores"))
    for measured in (None, Interval(0.5, 0.4, 0.6, 8)):
        got = judge(needy, measured)
        assert (got.verdict, got.reason) == ("SKIPPED", "needs cuda and two cores")
        assert (got.effect, got.p_value, got.to_dict()["n"]) == (None, None, 0)
    monkeypatch.setitem(claims.NEEDS, "cuda", lambda: True)
    monkeypatch.setitem(claims.NEEDS, "two cores", lambda: True)
    assert judge(needy, Interval(0.5, 0.4, 0.6, 8)).verdict == "SUPPORTED"


@pytest.mark.parametrize(
    ("low", "takeaway"),
    [(0.1, "holds: It helps."), (2.0, "does not hold: It helps."), (1.0, "stays open: It helps.")],
)
def test_a_claim_without_sentences_of_its_own_is_still_worded_by_its_verdict(low, takeaway):
    bare = Claim("id", "01_x", "It helps.", "w", "m", "ratio", "below", 8, margin=1.25)
    words = judge(bare, Interval(low, low, low + 0.5, 8)).takeaway()
    assert words.endswith(takeaway)


@pytest.mark.parametrize(
    ("kind", "margin", "bound", "inside", "outside"),
    [
        ("ratio below", 1.25, "below 1.25", 1.0, 1.5),
        ("ratio above", 1.5, "above 1.5", 2.0, 1.5),
        ("difference above", -0.01, "above -0.01", 0.0, -0.02),
        ("difference within", 0.01, "within ±0.01", -0.005, -0.02),
    ],
)
def test_a_claim_tells_its_bound_and_its_side(kind, margin, bound, inside, outside):
    stated = claim(kind, margin)
    assert (stated.describe_bound(), stated.holds_for(inside), stated.holds_for(outside)) == (
        bound,
        True,
        False,
    )
    assert claim("equality", None).describe_bound() == "exact"


def test_a_verdict_names_the_versions_and_the_noise():
    told = judge(claim(), paired_ratio([1.0, 1.0001] * 4, [2.0] * 8)).to_dict()
    assert set(told["versions"]) == {"nbkit", "torch", "numpy", "scipy"}
    assert told["hardware"] == told["machine"]["hardware"]
    assert (told["over"], told["bound"], told["p_value"] < 1e-8) == ("seeds", "below 1.25", True)
