"""The data and measurements of embeddings against plain references, and its pictures."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from nbkit.lab.data import digits
from nbkit.lab.evidence.register import load_claims
from nbkit.lab.evidence.stats import paired_ratio
from nbkit.lab.runs.seeds import train_runs
from nbkit.lessons.embeddings import live, pictures, task
from nbkit.lessons.embeddings.exercise import ANSWERS

DATA = task.make_author_data()


def test_authors_have_equal_shares_and_habits_of_their_own():
    assert DATA.x_train.shape == (1500, 8) and DATA.x_test.shape == (500, 8)
    assert torch.bincount(DATA.y_train).tolist() == [150] * 10
    counts = torch.zeros(10, 200)
    for words, author in zip(DATA.x_train, DATA.y_train, strict=True):
        counts[author] += torch.bincount(words, minlength=200)
    # Counting words alone names the author of most samples that were not counted.
    scores = (counts + 0.5).log()[:, DATA.x_test].sum(-1)
    assert (scores.argmax(0) == DATA.y_test).float().mean() > 0.8


def test_a_pixel_is_its_grey_level():
    pixels = task.read_pixels_as_words()
    assert pixels.x_train.dtype == torch.int64
    assert torch.allclose(pixels.x_test / 16, digits().x_test)


@pytest.mark.parametrize(
    ("data", "shape"), [(DATA, (200, 16)), (task.read_pixels_as_words(), (17, 4))]
)
def test_a_table_has_a_row_for_each_word(data, shape):
    model = task.make_word_net(data)()
    assert model[0].weight.shape == shape
    assert model(data.x_train[:3]).shape == (3, 10)


def test_only_the_table_is_drawn_anew():
    model = task.make_word_net(DATA)()
    rest = [weight.clone() for weight in list(model.parameters())[1:]]
    task.set_spread(model, spread=0.25)
    assert model[0].weight.std().item() == pytest.approx(0.25, rel=0.05)
    task.set_xavier(model)
    assert model[0].weight.std().item() == pytest.approx(math.sqrt(2 / 216), rel=0.05)
    assert all(map(torch.equal, rest, list(model.parameters())[1:]))


def test_a_cell_of_the_map_is_the_ratio_of_two_plain_trainings():
    claim = load_claims("embeddings")["init-xavier-embedding"]
    cells = task.judge_spread_cells(claim, DATA, range(2), (0.01,), (0.1, 3.0))
    assert list(cells) == [(0.01, 0.1), (0.01, 3.0)]
    ratios = []
    for seed in range(2):
        losses = []
        for spread in (3.0, None):
            torch.manual_seed(seed)
            model = task.make_word_net(DATA)()
            if spread:
                task.set_spread(model, spread=spread)
            optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
            for x, y in DATA.batches(task.BATCH, seed=seed, steps=150):
                optimizer.zero_grad()
                cross_entropy(model(x), y).backward()
                optimizer.step()
            losses.append(cross_entropy(model(DATA.x_train), DATA.y_train).item())
        ratios.append(losses[0] / losses[1])
    wanted = paired_ratio(ratios, [1.0, 1.0]).estimate
    assert cells[0.01, 3.0].effect.estimate == pytest.approx(wanted, rel=0.02)


def test_rows_that_are_never_read_do_not_turn():
    turns = task.measure_turns(DATA, (0.1, 1.0), steps=1)
    unread = torch.ones(200, dtype=torch.bool)
    unread[next(iter(DATA.batches(task.BATCH, seed=0)))[0].flatten()] = False
    for angles in turns.values():
        assert angles[unread].max() < 0.1 and angles[~unread].median() > 0.1
    # One step moves each number by the lr, 0.01: the smaller the row, the further it turns.
    assert turns[0.1].max() > 5 * turns[1.0].max()


@pytest.mark.parametrize(
    ("last", "word"),
    [(0.5, "learned"), (2.0, "little better than guessing"), (math.nan, "worse than guessing")],
)
def test_the_end_of_a_training_in_words(last, word):
    assert task.describe_table_end([9.0] * 10 + [last] * 10) == word


def test_the_right_answer_is_the_one_that_fails():
    wrong = []
    for letter, shrink in task.SHRINKERS.items():
        weight = torch.nn.Embedding(200, 16).weight
        shrink(weight)
        if abs(weight.detach().std().item() - 0.1) > 0.01:
            wrong.append(letter)
    assert wrong == [ANSWERS["table"].right]


def test_goals_are_announced():
    lower, higher = "yours ends lower than it", "yours ends higher than it"
    assert live.describe_table_goal(lower, 0.1, "adam", "PyTorch") == "goal 1 reached: "
    assert live.describe_table_goal(higher, 0.1, "sgd", "PyTorch") == "goal 2 reached: "
    assert live.describe_table_goal(lower, 0.1, "adam", live.RIVAL) == "goal 3 reached: "
    assert live.describe_table_goal("no difference", 0.1, "sgd", "PyTorch") == ""


def test_pictures_show_what_they_are_given(ax):
    arms = {name: {"lr": 0.1} for name in ("yours", "PyTorch")}
    *_, runs = train_runs(task.make_word_net(DATA), DATA, arms, range(2), steps=5, batch_size=32)
    assert pictures.draw_table_arms(ax, runs) is ax and ax.get_ylim() == (0.03, 10)
    ax.clear()
    pictures.draw_turns(ax, {0.1: torch.tensor([10.0, 20.0, 60.0])})
    assert list(ax.lines[0].get_ydata()) == [10, 20, 60]
    assert list(ax.lines[1].get_ydata()) == [20, 20]
