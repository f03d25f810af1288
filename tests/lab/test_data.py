"""The digits, the batches drawn from them, and data of the user's own."""

import importlib.util
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from nbkit.lab import data, shipped
from nbkit.lab.data import digits, load_data

ROOT = Path(__file__).parents[2]


def tiny(count: int = 10) -> data.Data:
    """Samples that say which they are: sample i is [i, -i] with label i."""
    number = torch.arange(count)
    x = torch.stack([number, -number], 1).float()
    return data.Data(x, number, x[:2], number[:2])


def make_digits():
    spec = importlib.util.spec_from_file_location("make_digits", ROOT / "data/make_digits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The digits


def test_digits_are_grey_levels_from_0_to_1_with_30_test_images_of_each():
    found = digits()
    assert found.x_train.shape == (1497, 64) and found.x_test.shape == (300, 64)
    assert found.x_train.dtype == torch.float32 and found.y_train.dtype == torch.int64
    assert found.x_train.min() == 0 and found.x_train.max() == 1
    assert (found.x_train * 16).frac().abs().max() == 0
    assert torch.bincount(found.y_test).tolist() == [30] * 10


def test_digits_are_those_of_scikit_learn():
    source = pytest.importorskip("sklearn.datasets").load_digits()
    ours = digits()
    x = torch.cat([ours.x_train, ours.x_test]) * 16
    labelled = torch.cat([x, torch.cat([ours.y_train, ours.y_test])[:, None].float()], 1)
    theirs = np.concatenate([source.data, source.target[:, None]], 1)
    assert sorted(labelled.tolist()) == sorted(theirs.tolist())


def test_the_script_makes_the_same_bytes(tmp_path, capsys):
    pytest.importorskip("sklearn")
    make_digits().main(tmp_path / "digits.npz")
    assert data.DIGITS_SHA256 in capsys.readouterr().out
    assert (tmp_path / "digits.npz").read_bytes() == (ROOT / "data/digits.npz").read_bytes()


def test_digits_need_no_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert len(digits().x_train) == 1497


def test_the_readme_names_the_checksum_of_the_code():
    assert data.DIGITS_SHA256 in (ROOT / "data/README.md").read_text()


def test_a_missing_file_is_named_with_the_way_to_get_it_back(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "nbkit")
    (tmp_path / "pyproject.toml").touch()
    with pytest.raises(FileNotFoundError) as error:
        digits()
    expected = tmp_path / "data/digits.npz"
    assert str(error.value) == (
        f"{expected} is missing: expected digits.npz, which ships with nbkit. "
        f"Get it back with `git checkout -- data/digits.npz` in {tmp_path}."
    )


@pytest.mark.parametrize("left", ["nbkit/share/data", "nbkit"])
def test_what_is_missing_from_an_installed_package_comes_back_with_it(left, tmp_path, monkeypatch):
    (tmp_path / left).mkdir(parents=True)
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "nbkit")
    with pytest.raises(FileNotFoundError) as error:
        digits()
    assert str(error.value) == (
        f"{tmp_path / 'nbkit/share/data/digits.npz'} is missing: expected digits.npz, which ships "
        "with nbkit. Get it back: `pip install --force-reinstall --no-deps .` in a checkout."
    )


def test_a_damaged_file_is_named_with_both_checksums_and_the_way_to_get_it_back(
    tmp_path, monkeypatch
):
    share = tmp_path / "nbkit/share/data"
    share.mkdir(parents=True)
    (share / "digits.npz").write_bytes(b"not the digits")
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "nbkit")
    with pytest.raises(ValueError) as error:
        digits()
    message = str(error.value)
    assert message.startswith(f"{share / 'digits.npz'} is damaged: expected sha256 ec5f46")
    assert "(14 bytes)" in message
    assert message.endswith(
        "Get it back: `pip install --force-reinstall --no-deps .` in a checkout."
    )


def test_one_flipped_bit_is_damage(tmp_path, monkeypatch):
    content = bytearray((ROOT / "data/digits.npz").read_bytes())
    content[50_000] ^= 1
    (tmp_path / "data").mkdir()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "data/digits.npz").write_bytes(content)
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "nbkit")
    with pytest.raises(ValueError, match="is damaged"):
        digits()


def test_an_installed_package_reads_its_own_copy(tmp_path, monkeypatch):
    share = tmp_path / "nbkit/share"
    (share / "data").mkdir(parents=True)
    (share / "notebooks").mkdir()
    shutil.copy(ROOT / "data/digits.npz", share / "data")
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path / "nbkit")
    assert shipped.shipped_file("digits.npz") == share / "data/digits.npz"
    assert shipped.lessons_dir() == share / "notebooks"
    assert len(digits().x_train) == 1497


def test_a_checkout_reads_its_own_folders():
    assert shipped.shipped_file("digits.npz") == ROOT / "data/digits.npz"
    assert shipped.lessons_dir() == ROOT / "notebooks"


# Batches


def flat(batches) -> list[int]:
    return [label for _, y in batches for label in y.tolist()]


def test_batches_pair_each_sample_with_its_label():
    for x, y in tiny().batches(3, seed=0):
        assert x.tolist() == [[label, -label] for label in y.tolist()]


def test_the_same_seed_gives_the_same_batches_and_another_seed_others():
    assert flat(tiny().batches(5, seed=1)) == flat(tiny().batches(5, seed=1))
    assert flat(tiny().batches(5, seed=1)) != flat(tiny().batches(5, seed=2))


def test_iterating_again_gives_the_same_batches_also_while_another_iteration_runs():
    batches = tiny().batches(5, seed=0, steps=6)
    expected = flat(batches)
    interrupted = iter(batches)
    next(interrupted)
    assert flat(batches) == expected
    assert flat(interrupted) == expected[5:]


def test_an_epoch_takes_no_sample_twice_and_the_next_has_another_order():
    order = flat(tiny().batches(5, seed=0, steps=4))
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]


@pytest.mark.parametrize(("steps", "expected"), [(None, 3), (0, 0), (2, 2), (3, 3), (7, 7)])
def test_there_are_as_many_full_batches_as_asked_for(steps, expected):
    batches = tiny().batches(3, seed=0, steps=steps)
    assert [len(y) for _, y in batches] == [3] * expected
    assert len(batches) == expected


def test_fewer_steps_are_the_beginning_of_more():
    assert flat(tiny().batches(3, seed=0, steps=7))[:6] == flat(tiny().batches(3, seed=0, steps=2))


def test_drawing_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    flat(tiny().batches(3, seed=0, steps=7))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [0, 11, -1])
def test_a_batch_size_that_no_batch_can_have_is_refused(size):
    with pytest.raises(ValueError, match=f"batch_size must be from 1 to 10, .* got {size}"):
        tiny().batches(size, seed=0)


def test_negative_steps_are_refused():
    with pytest.raises(ValueError, match="steps must be at least 0, got -1"):
        tiny().batches(2, seed=0, steps=-1)


@pytest.mark.gpu
def test_the_same_seed_gives_the_same_batches_on_a_gpu():
    here, there = tiny().batches(3, seed=0, steps=7), tiny().to("cuda").batches(3, seed=0, steps=7)
    assert flat(here) == flat(there)
    assert next(iter(there))[0].is_cuda and digits("cuda").x_test.is_cuda


# Data of the user's own


class Squares(Dataset):
    """Ten samples, made one at a time."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index >= 10:
            raise IndexError
        return np.array([index, index**2], dtype=np.float64), index


def test_an_npz_with_a_split_of_its_own_keeps_it(tmp_path):
    path = tmp_path / "mine.npz"
    x, y = np.arange(12.0).reshape(6, 2), np.arange(6, dtype=np.int32)
    np.savez(path, x_train=x[:4], y_train=y[:4], x_test=x[4:], y_test=y[4:], other=y)
    found = load_data(path)
    assert found.x_train.tolist() == x[:4].tolist() and found.y_test.tolist() == [4, 5]
    assert found.x_train.dtype == torch.float32 and found.y_train.dtype == torch.int64


def test_an_npz_without_a_split_gets_a_seeded_one(tmp_path):
    np.savez(tmp_path / "mine.npz", x=np.eye(12), y=np.arange(12))
    one, two, other = (load_data(str(tmp_path / "mine.npz"), seed=seed) for seed in (0, 0, 1))
    assert len(one.x_train) == 10 and len(one.x_test) == 2
    assert sorted([*one.y_train.tolist(), *one.y_test.tolist()]) == list(range(12))
    assert one.x_test.argmax(1).tolist() == one.y_test.tolist() == two.y_test.tolist()
    assert one.y_test.tolist() != other.y_test.tolist()


@pytest.mark.parametrize(
    "source",
    [
        Squares(),
        DataLoader(Squares(), batch_size=3),
        [(torch.tensor([[i, i**2] for i in range(10)]).double(), torch.arange(10))],
    ],
    ids=["dataset", "loader", "batches"],
)
def test_a_dataset_a_loader_and_a_list_of_batches_are_read_alike(source):
    found = load_data(source, test_fraction=0.2)
    x = torch.cat([found.x_train, found.x_test])
    y = torch.cat([found.y_train, found.y_test])
    assert x.dtype == torch.float32 and len(found.x_test) == 2
    assert y.sort().values.tolist() == list(range(10))
    assert torch.equal(x[:, 1], y.float() ** 2)


def test_a_second_source_is_the_test_set():
    found = load_data(Squares(), test=TensorDataset(torch.ones(3, 2), torch.zeros(3)))
    assert found.y_train.tolist() == list(range(10)) and found.x_test.tolist() == [[1, 1]] * 3
    assert found.y_test.dtype == torch.float32


def test_bytes_are_grey_levels_and_other_integers_stay():
    grey = load_data(
        [(torch.tensor([[0], [51], [255]], dtype=torch.uint8), torch.arange(3))], test_fraction=0.4
    )
    assert sorted(torch.cat([grey.x_train, grey.x_test]).flatten().tolist()) == pytest.approx(
        [0, 0.2, 1]
    )
    tokens = load_data([(torch.arange(3)[:, None], torch.arange(3))], test_fraction=0.4)
    assert tokens.x_train.dtype == torch.int64


def test_reading_a_dataset_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    load_data(Squares())
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_not_there_or_not_an_npz_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        load_data("none.npz")
    expected = "an .npz file of numeric arrays, as numpy.savez writes it"
    assert str(error.value) == f"{tmp_path / 'none.npz'} is missing: expected {expected}."
    with pytest.raises(IsADirectoryError, match=re.escape(str(tmp_path))):
        load_data(tmp_path)
    (tmp_path / "text.npz").write_text("x,y")
    with pytest.raises(ValueError, match=r"text\.npz must be an \.npz file of numeric arrays"):
        load_data(tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", np.arange(3))
    with pytest.raises(ValueError, match=r"one\.npy must be an \.npz file"):
        load_data(tmp_path / "one.npy")
    np.savez(tmp_path / "objects.npz", x=np.array([{}]), y=np.arange(1))
    with pytest.raises(ValueError, match=r"objects\.npz must be an \.npz file of numeric arrays"):
        load_data(tmp_path / "objects.npz")


def test_a_damaged_npz_is_said_to_be_none(tmp_path):
    """Whatever numpy, zipfile and zlib raise: a byte changed anywhere, or the end cut off."""
    np.savez_compressed(tmp_path / "good.npz", x=np.eye(12), y=np.arange(12))
    good = (tmp_path / "good.npz").read_bytes()
    damaged = [good[:end] for end in range(0, len(good), 40)]
    for place in range(len(good)):
        damaged += [
            good[:place] + bytes([good[place] ^ bits]) + good[place + 1 :] for bits in (1, 8)
        ]
    causes = set()
    for content in damaged:
        (tmp_path / "bad.npz").write_bytes(content)
        try:
            load_data(tmp_path / "bad.npz")  # a byte that nothing reads is no damage
        except ValueError as error:
            assert str(error).startswith(f"{tmp_path / 'bad.npz'} must ")
            causes.add(type(error.__cause__).__name__)
    assert {"BadZipFile", "EOFError", "error"} < causes  # zlib.error is called error


def test_arrays_of_other_names_or_lengths_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.eye(3), y=np.arange(3))
    with pytest.raises(ValueError, match="x_train y_train x_test y_test, or x y; it holds images"):
        load_data(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x=np.eye(3), y=np.arange(4))
    with pytest.raises(ValueError, match="x and y must be equally many, got 3 and 4"):
        load_data(tmp_path / "b.npz")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "list is empty"),
        ([{"x": 1}], r"must give pairs \(x, y\), got a dict"),
        ([(1, 2, 3)], "must give pairs"),
        ([(torch.ones(2), 1)], "must give batches, got one sample"),
        ([(torch.ones(2, 1), torch.ones(2))], "leaves 0 to test and 2 to train"),
    ],
)
def test_a_source_that_gives_no_samples_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        load_data(source)


@pytest.mark.parametrize("fraction", [0, 1, -0.5])
def test_a_test_fraction_outside_0_to_1_is_refused(fraction):
    with pytest.raises(ValueError, match=f"test_fraction must be between 0 and 1, got {fraction}"):
        load_data(Squares(), test_fraction=fraction)


def test_data_moves_to_another_device_whole():
    moved = tiny().to("meta")
    assert all(getattr(moved, part).is_meta for part in data.PARTS)


def test_data_says_what_it_is():
    assert repr(tiny()) == "Data(10 train and 2 test samples, 2 torch.float32, on cpu)"


def test_held_out_samples_are_a_share_of_the_training_set_and_of_nothing_else():
    whole = tiny()
    held = whole.hold_out(0.3, seed=4)
    assert (len(held.x_train), len(held.x_test)) == (7, 3)
    assert sorted([*held.y_train.tolist(), *held.y_test.tolist()]) == list(range(10))
    for x, y in ((held.x_train, held.y_train), (held.x_test, held.y_test)):
        assert torch.equal(x[:, 0], y.float()) and torch.equal(x[:, 1], -y.float())
    assert torch.equal(whole.hold_out(0.3, seed=4).y_test, held.y_test)
    others = {tuple(whole.hold_out(0.3, seed=seed).y_test.tolist()) for seed in range(5)}
    assert len(others) > 1
