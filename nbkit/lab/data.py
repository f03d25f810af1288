"""Small real data, kept on the device: the digits that ship with the kit, or what you bring.

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


@dataclass(frozen=True)
class Batches:
    """Batches of a data set in a seeded order; iterating again gives the same batches.

    The order is that of a shuffled DataLoader that drops an incomplete last batch: each epoch is a
    fresh permutation, and no sample comes twice within one. It is drawn on the CPU, so a seed means
    the same batches on every device, and by a generator of its own, so the global random state is
    neither read nor moved.
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
        """The rows of each batch, on the data's device; a whole epoch is copied there at once."""
        generator = torch.Generator().manual_seed(self.seed)
        per_epoch = len(self.x) // self.size
        for start in range(0, self.steps, per_epoch):
            order = torch.randperm(len(self.x), generator=generator).to(self.x.device)
            count = min(per_epoch, self.steps - start)
            yield from order[: count * self.size].view(count, self.size)


@dataclass(frozen=True, repr=False)
class Data:
    """A training and a test set, whole, on one device."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor

    def __repr__(self) -> str:
        shape = "x".join(str(size) for size in self.x_train.shape[1:]) or "scalar"
        counts = f"{len(self.x_train)} train and {len(self.x_test)} test samples"
        return f"Data({counts}, {shape} {self.x_train.dtype}, on {self.x_train.device})"

    def to(self, device: str | torch.device) -> Data:
        """The same data on another device."""
        return Data(*(getattr(self, part).to(device) for part in PARTS))

    def batches(self, batch_size: int, *, seed: int, steps: int | None = None) -> Batches:
        """Shuffled batches of the training set: `steps` of them, or one epoch.

        Args:
            batch_size: samples in each batch; every batch is full.
            seed: of the order.
            steps: how many batches, over as many epochs as that takes; None is one epoch.
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


def digits(device: str | torch.device = "cpu") -> Data:
    """The 1,797 handwritten digits of UCI's test set, as scikit-learn has them.

    Each is 64 grey levels from 0 to 1 in float32 (8x8, flattened), the label an int64 from 0 to 9.
    The split is fixed and stratified: 1,497 to train, 300 to test, 30 of each digit. Both sets come
    from the same thirteen hands, so the test error is smaller than it would be for a stranger's.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if its checksum is another; either error says how to get the file back.

    >>> digits()
    Data(1497 train and 300 test samples, 64 torch.float32, on cpu)
    """
    import numpy as np

    path = shipped_file("digits.npz")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != DIGITS_SHA256:
        raise ValueError(
            f"{path} is damaged: expected sha256 {DIGITS_SHA256}, got {found} "
            f"({len(content):,} bytes). {how_to_restore(path)}"
        )

    with np.load(io.BytesIO(content)) as arrays:
        parts = {part: torch.from_numpy(arrays[part]).to(device) for part in PARTS}
    x = {part: parts[part].flatten(1).float() / 16 for part in ("x_train", "x_test")}
    return Data(x["x_train"], parts["y_train"].long(), x["x_test"], parts["y_test"].long())


def load_data(
    source: Any,
    *,
    test: Any = None,
    device: str | torch.device = "cpu",
    test_fraction: float = 1 / 6,
    seed: int = 0,
) -> Data:
    """Your own data, read once and then kept on the device.

    Args:
        source: the path of an `.npz` with arrays `x_train, y_train, x_test, y_test`, or `x, y`; or
            a Dataset of (x, y) pairs; or any iterable of batches (x, y), such as a DataLoader.
        test: a second one of these, to test on; without it and without `x_test` in the file, a
            share of the source is drawn.
        device: where it is kept.
        test_fraction: how large that share is.
        seed: of that draw.
    Raises:
        FileNotFoundError: if the path leads nowhere.
        ValueError: if it holds something else, or x and y differ in length.

    Values are taken as they are but for three kinds: uint8 are grey levels or colours, divided by
    255 as torchvision's `ToTensor` does; floats become float32; whole-numbered labels become int64.
    All of it has to fit into the device's memory.

    >>> x, y = torch.randn(12, 3), torch.arange(12)
    >>> load_data(torch.utils.data.TensorDataset(x, y))
    Data(10 train and 2 test samples, 3 torch.float32, on cpu)
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must be between 0 and 1, got {test_fraction}.")
    pair = ("x", "y")
    if test is not None:
        parts = [*_read(source, pair), *_read(test, pair)]
    else:
        parts = _read(source, PARTS, pair)
    if len(parts) == 2:
        parts = _split(parts[0], parts[1], test_fraction, seed)
    x_train, x_test = (_values(x).to(device) for x in parts[::2])
    y_train, y_test = (_labels(y).to(device) for y in parts[1::2])
    return Data(x_train, y_train, x_test, y_test)


def _read(source: Any, *layouts: tuple[str, ...]) -> list[Tensor]:
    """The tensors of a source, in the order of the first layout whose names it has."""
    is_file = isinstance(source, str | Path)
    name = str(source) if is_file else type(source).__name__
    found = _read_npz(source) if is_file else _read_pairs(source, name)
    names = next((names for names in layouts if set(names) <= set(found)), None)
    if names is None:
        expected = ", or ".join(" ".join(names) for names in layouts)
        raise ValueError(f"{name} must hold the arrays {expected}; it holds {' '.join(found)}.")
    for x, y in zip(names[::2], names[1::2], strict=True):
        if len(found[x]) != len(found[y]):
            counts = f"{len(found[x])} and {len(found[y])}"
            raise ValueError(f"{name}: {x} and {y} must be equally many, got {counts}.")
    return [found[name] for name in names]


def _read_npz(path: str | Path) -> dict[str, Tensor]:
    import numpy as np

    expected = "an .npz file of numeric arrays, as numpy.savez writes it"
    if not Path(path).exists():
        raise FileNotFoundError(f"{Path(path).absolute()} is missing: expected {expected}.")
    with open(path, "rb") as stream:
        try:
            with np.load(stream) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        except Exception as error:  # numpy, zipfile, zlib and tokenize each have several
            raise ValueError(f"{path} must be {expected}: {error}") from error


def _read_pairs(source: Iterable[Any], name: str) -> dict[str, Tensor]:
    """x and y of a Dataset or of batches, joined."""
    from torch.utils.data import DataLoader, Dataset

    if isinstance(source, Dataset):  # a generator of its own: the global one stays where it is
        source = DataLoader(source, batch_size=256, generator=torch.Generator())
    xs, ys = [], []
    for batch in source:
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            raise ValueError(f"{name} must give pairs (x, y), got a {type(batch).__name__}.")
        x, y = map(torch.as_tensor, batch)
        if not y.ndim:
            raise ValueError(f"{name} must give batches, got one sample: use a Dataset of them.")
        xs.append(x)
        ys.append(y)
    if not xs:
        raise ValueError(f"{name} is empty.")
    return {"x": torch.cat(xs), "y": torch.cat(ys)}


def _split(x: Tensor, y: Tensor, test_fraction: float, seed: int) -> list[Tensor]:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    count = round(len(x) * test_fraction)
    if not 0 < count < len(x):
        raise ValueError(
            f"test_fraction={test_fraction} of {len(x)} samples leaves {count} to test and "
            f"{len(x) - count} to train; both need at least one."
        )
    test, train = order[:count], order[count:]
    return [x[train], y[train], x[test], y[test]]


def _values(x: Tensor) -> Tensor:
    if x.dtype == torch.uint8:
        return x.float() / 255
    return x.float() if x.is_floating_point() else x


def _labels(y: Tensor) -> Tensor:
    return y.float() if y.is_floating_point() else y.long()
