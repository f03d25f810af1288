"""The pace is held against machines whose times are a formula."""

import pytest

from nbkit.lab.live.pace import IN_TIME, LEAST, Pace

HERE, THERE = {"depth": 1}, {"depth": 5}


def note(pace, values, count, seconds, yields=10):
    pace.note_run(values, count, seconds, yields)


def test_two_runs_of_the_same_values_give_the_line_through_both():
    pace = Pace(20)
    note(pace, HERE, 20, 0.1 + 20 * 0.05)
    note(pace, HERE, 4, 0.1 + 4 * 0.05)
    for count in (3, 8, 20):
        assert pace.estimate_seconds(count) == pytest.approx(0.1 + count * 0.05)
    # 0.1 + 12 * 0.05 is 0.7: one seed more would come too late.
    assert pace.choose_count() in (11, 12) and pace.estimate_seconds(13) > IN_TIME


def test_a_quick_machine_trains_all_seeds_at_once():
    pace = Pace(8)
    note(pace, HERE, 8, 0.4)
    assert pace.choose_count() == 8


@pytest.mark.parametrize(("full", "count"), [(8, LEAST), (3, 3), (2, 2), (1, 1)])
def test_a_slow_machine_trains_the_fewest_that_say_something(full, count):
    pace = Pace(full)
    note(pace, HERE, full, 60.0)
    assert pace.choose_count() == count


def test_before_a_second_run_half_of_the_time_counts_as_overhead():
    """Else three of eight seeds would be promised in three eighths of the time."""
    pace = Pace(8)
    note(pace, HERE, 8, 1.6)
    assert pace.estimate_seconds(4) == pytest.approx(0.8 + 0.4)


def test_other_values_that_take_longer_make_every_estimate_longer():
    pace = Pace(8)
    note(pace, HERE, 8, 0.5)
    note(pace, HERE, 4, 0.3)
    note(pace, THERE, 4, 1.2)
    assert pace.estimate_seconds(8) == pytest.approx(4 * 0.5)
    assert pace.choose_count() == LEAST


def test_more_seeds_never_count_as_quicker():
    """Noise may make the run with more seeds the quicker one."""
    pace = Pace(8)
    note(pace, HERE, 3, 0.9)
    note(pace, HERE, 8, 0.8)
    assert pace.estimate_seconds(3) <= pace.estimate_seconds(8) == pytest.approx(0.8)


def test_no_count_takes_less_than_no_time():
    pace = Pace(8)
    note(pace, HERE, 4, 0.1)
    note(pace, HERE, 8, 1.0)  # the line through both is below 0 at 3 seeds
    assert pace.estimate_seconds(3) > 0 and pace.estimate_seconds(8) == pytest.approx(1.0)


def test_a_run_that_is_four_times_as_slow_is_seen_early_and_teaches_the_pace():
    pace = Pace(8)
    note(pace, HERE, 8, 0.5, yields=20)
    # After 0.2 s it has yielded twice out of twenty times: it would take 2 s.
    assert not pace.is_too_slow(8, 0.1, 3)
    assert not pace.is_too_slow(8, 0.2, 8)
    assert not pace.is_too_slow(8, 0.4, 2), "too few yields to say anything"
    assert pace.is_too_slow(8, 0.3, 3)
    assert pace.estimate_seconds(8) == pytest.approx(2.0)
    assert pace.choose_count() < 8


def test_the_fewest_seeds_are_never_too_slow():
    """There is nothing quicker to begin again with."""
    pace = Pace(8)
    note(pace, HERE, 8, 0.5, yields=20)
    assert not pace.is_too_slow(LEAST, 5.0, 4)


def test_giving_up_ends():
    """Each run that is given up is followed by one with fewer seeds."""
    pace, count = Pace(40), 40
    note(pace, HERE, 40, 0.6, yields=20)
    counts = []
    while pace.is_too_slow(count, 1.0, 3):
        counts.append(count)
        count = pace.choose_count()
    assert counts == sorted(set(counts), reverse=True) and count == LEAST
