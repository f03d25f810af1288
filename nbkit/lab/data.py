"""Keep small data on the device: the digits that ship with the kit, or your own.

A batch is drawn by index where the data lives. No sample is touched one by one, which is what makes
a DataLoader slower than the training itself on data this small.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nbkit.lab.shipped import how_to_restore, shipped_file

DIGITS_SHA256 = "ec5f46103655fe532e133b388be18be1b343057dd4096b2f532294fa3a135a2f"
PARTS = ("x_train", "y_train", "x_test", "y_test")
PAIR = ("x", "y")  # the names in a source that is not yet split


@dataclass(frozen=True)
class Batches:
    """Batches of a data set in a seeded order; iterating again gives the same batches.

    The order is that of a shuffled DataLoader that drops an incomplete last batch: each epoch is a
    fresh permutation, and no sample comes twice within one. The order is drawn on the CPU, so a
    seed means the same batches on every device. It is drawn from a separate generator, so the
    global random state is neither read nor changed.
    """

    x: Tensor
    y: Tensor
    size: int
    seed: int
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in self.indices():
            yield self.x[rows], self.y[rows]

    def indices(self) -> Iterator[Tensor]:
        """Yield the rows of each batch: int64 of shape (size,), on the data's device."""
        generator = torch.Generator().manual_seed(self.seed)
        per_epoch = len(self.x) // self.size
        for start in range(0, self.steps, per_epoch):
            # One copy to the device for a whole epoch: a copy for each batch would dominate.
            order = torch.randperm(len(self.x), generator=generator).to(self.x.device)
            count = min(per_epoch, self.steps - start)
            # (count * size,) -> (count, size): each row of the view is one batch.
            yield from order[: count * self.size].view(count, self.size)


@dataclass(frozen=True, repr=False)
class Data:
    """A whole training set and a whole test set on one device."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.x_train.shape[1:])) or "scalar"
        counts = f"{len(self.x_train)} train and {len(self.x_test)} test samples"
        return f"Data({counts}, {shape} {self.x_train.dtype}, on {self.x_train.device})"

    def to(self, device: str | torch.device) -> Data:
        """Return the same data on another device."""
        return Data(
            self.x_train.to(device),
            self.y_train.to(device),
            self.x_test.to(device),
            self.y_test.to(device),
        )

    def batches(self, batch_size: int, *, seed: int, steps: int | None = None) -> Batches:
        """Draw shuffled batches of the training set: `steps` of them, or one epoch.

        Args:
            batch_size: samples in each batch; every batch is full.
            seed: seed of the order.
            steps: number of batches, over as many epochs as that takes; None is one epoch.
        Raises:
            ValueError: if there are fewer samples than one batch needs, or steps is negative.

        >>> batches = digits().batches(64, seed=0)
        >>> x, y = next(iter(batches))
        >>> len(batches), tuple(x.shape), tuple(y.shape)
        (23, (64, 64), (64,))
        """
        if not 1 <= batch_size <= len(self.x_train):
            raise ValueError(
                f"batch_size must be from 1 to {len(self.x_train)}, the number of training "
                f"samples, got {batch_size}."
            )
        if steps is None:
            steps = len(self.x_train) // batch_size
        if steps < 0:
            raise ValueError(f"steps must be at least 0, got {steps}.")
        return Batches(self.x_train, self.y_train, batch_size, seed, steps)

    def hold_out(self, fraction: float = 1 / 4, *, seed: int = 0) -> Data:
        """Return the training set alone, split again: a share of it takes the test set's place.

        What is tuned on the held-out samples has seen nothing of the real test set.

        >>> digits().hold_out()
        Data(1123 train and 374 test samples, 64 torch.float32, on cpu)
        """
        return Data(*_split_off_test(self.x_train, self.y_train, fraction, seed))


def digits(device: str | torch.device = "cpu") -> Data:
    """Load the 1,797 handwritten digits of UCI's test set, as scikit-learn has them.

    Each is 64 grey levels from 0 to 1 in float32 (8x8, flattened), the label an int64 from 0 to 9.
    The split is fixed and stratified: 1,497 to train, 300 to test, 30 of each digit. Both sets come
    from the same thirteen writers, so the test error is smaller than for digits of a new writer.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if its checksum differs; either error says how to restore the file.

    >>> digits()
    Data(1497 train and 300 test samples, 64 torch.float32, on cpu)
    """
    import numpy as np

    path = shipped_file("digits.npz")
    content = path.read_bytes()
    # A damaged file would train almost as well, and nobody would notice.
    found = hashlib.sha256(content).hexdigest()
    if found != DIGITS_SHA256:
        raise ValueError(
            f"{path} is damaged: expected sha256 {DIGITS_SHA256}, got {found} "
            f"({len(content):,} bytes). {how_to_restore(path)}"
        )

    # Read from the bytes that were checked, not from the path once more.
    with np.load(io.BytesIO(content)) as arrays:
        parts = {part: torch.from_numpy(arrays[part]).to(device) for part in PARTS}
    # The file holds whole numbers from 0 to 16 in the shape (samples, 8, 8).
    x_train = parts["x_train"].flatten(1).float() / 16
    x_test = parts["x_test"].flatten(1).float() / 16
    return Data(x_train, parts["y_train"].long(), x_test, parts["y_test"].long())


def load_data(
    source: Any,
    *,
    test: Any = None,
    device: str | torch.device = "cpu",
    test_fraction: float = 1 / 6,
    seed: int = 0,
) -> Data:
    """Read your own data once, and keep it on the device.

    Args:
        source: the path of an `.npz` with arrays `x_train, y_train, x_test, y_test`, or `x, y`; or
            a Dataset of (x, y) pairs; or any iterable of batches (x, y), such as a DataLoader.
        test: a second source, to test on; without it and without `x_test` in the file, a share of
            the first source is drawn.
        device: device that keeps the data.
        test_fraction: the share that is drawn, between 0 and 1.
        seed: seed of that draw.
    Raises:
        FileNotFoundError: if there is no file at the path.
        ValueError: if the source holds something else, or x and y differ in length.

    Values are taken as they are but for three kinds: uint8 are grey levels or colours, divided by
    255 as torchvision's `ToTensor` does; floats become float32; whole-numbered labels become int64.
    All of it has to fit into the device's memory.

    >>> x, y = torch.randn(12, 3), torch.arange(12)
    >>> load_data(torch.utils.data.TensorDataset(x, y))
    Data(10 train and 2 test samples, 3 torch.float32, on cpu)
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must be between 0 and 1, got {test_fraction}.")

    # With a second source the first is not split, so both need the layout x, y.
    if test is not None:
        parts = [*_read_source(source, PAIR), *_read_source(test, PAIR)]
    else:
        parts = _read_source(source, PARTS, PAIR)
    if len(parts) == 2:
        parts = _split_off_test(parts[0], parts[1], test_fraction, seed)
    x_train, y_train, x_test, y_test = parts
    return Data(
        _convert_inputs(x_train).to(device),
        _convert_labels(y_train).to(device),
        _convert_inputs(x_test).to(device),
        _convert_labels(y_test).to(device),
    )


def _read_source(source: Any, *layouts: tuple[str, ...]) -> list[Tensor]:
    """Read the tensors of a source, in the order of the first layout whose names it has."""
    is_file = isinstance(source, str | Path)
    label = str(source) if is_file else type(source).__name__
    found = _read_npz(source) if is_file else _read_pairs(source, label)
    for layout in layouts:
        if set(layout) <= set(found):
            _check_lengths(found, layout, label)
            return [found[name] for name in layout]
    expected = ", or ".join(map(" ".join, layouts))
    raise ValueError(f"{label} must hold the arrays {expected}; it holds {' '.join(found)}.")


def _check_lengths(found: dict[str, Tensor], layout: tuple[str, ...], label: str) -> None:
    """Refuse a source in which an x and its y differ in length."""
    # A layout lists x, y, x, y: its even places are inputs, each followed by its labels.
    for x, y in zip(layout[::2], layout[1::2], strict=True):
        if len(found[x]) != len(found[y]):
            counts = f"{len(found[x])} and {len(found[y])}"
            raise ValueError(f"{label}: {x} and {y} must be equally many, got {counts}.")


def _read_npz(path: str | Path) -> dict[str, Tensor]:
    """Read every array of an `.npz` file, by name."""
    import numpy as np

    expected = "an .npz file of numeric arrays, as numpy.savez writes it"
    if not Path(path).exists():
        raise FileNotFoundError(f"{Path(path).absolute()} is missing: expected {expected}.")
    # Opened outside the try: an OSError, as for a folder, already says what is wrong.
    with open(path, "rb") as stream:
        try:
            with np.load(stream) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        except Exception as error:
            # A damaged file makes numpy, zipfile, zlib and tokenize raise several types each.
            raise ValueError(f"{path} must be {expected}: {error}") from error


def _read_pairs(source: Iterable[Any], label: str) -> dict[str, Tensor]:
    """Read all pairs of a Dataset or of an iterable of batches, joined to one x and one y."""
    from torch.utils.data import DataLoader, Dataset

    if isinstance(source, Dataset):
        # A DataLoader draws a seed for its workers; here it does not draw it from the global state.
        source = DataLoader(source, batch_size=256, generator=torch.Generator())
    xs, ys = [], []
    for batch in source:
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            raise ValueError(f"{label} must give pairs (x, y), got a {type(batch).__name__}.")
        x, y = map(torch.as_tensor, batch)
        # A label without dimensions is that of one sample: torch.cat needs batches.
        if not y.ndim:
            raise ValueError(f"{label} must give batches, got one sample: use a Dataset of them.")
        xs.append(x)
        ys.append(y)
    if not xs:
        raise ValueError(f"{label} is empty.")
    return {"x": torch.cat(xs), "y": torch.cat(ys)}


def _split_off_test(x: Tensor, y: Tensor, test_fraction: float, seed: int) -> list[Tensor]:
    """Draw a test set at random; return the tensors in the order of PARTS."""
    # Drawn on the CPU, so that a seed means the same samples on every device.
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
    count = round(len(x) * test_fraction)
    if not 0 < count < len(x):
        raise ValueError(
            f"test_fraction={test_fraction} of {len(x)} samples leaves {count} to test and "
            f"{len(x) - count} to train; both need at least one."
        )
    test, train = order[:count], order[count:]
    return [x[train], y[train], x[test], y[test]]


def _convert_inputs(x: Tensor) -> Tensor:
    if x.dtype == torch.uint8:
        return x.float() / 255
    # Other whole numbers are indices, such as tokens: as floats no embedding would take them.
    return x.float() if x.is_floating_point() else x


def _convert_labels(y: Tensor) -> Tensor:
    # cross_entropy takes class labels as int64 only; float labels are targets of a regression.
    return y.float() if y.is_floating_point() else y.long()
