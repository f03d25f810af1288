"""Make data/digits.npz from scikit-learn's copy of the UCI digits, the same bytes every time.

    pip install "scikit-learn>=1.4" && python data/make_digits.py

The split is stratified: of each digit, 30 images drawn at random are the test set (300), the rest
are the training set (1,497). RandomState, unlike numpy's newer generators, promises that a seed
gives the same numbers in every version. Nothing is compressed, so no version of zlib can matter.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np

TEST_PER_DIGIT = 30


def split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and of the test set, each in the order of the source."""
    random = np.random.RandomState(0)
    test = np.concatenate(
        [
            random.choice(np.flatnonzero(labels == digit), TEST_PER_DIGIT, replace=False)
            for digit in range(10)
        ]
    )
    test.sort()
    return np.setdiff1d(np.arange(len(labels)), test), test


def main(path: Path) -> None:
    """Write the file and print its checksum."""
    from sklearn.datasets import load_digits

    source = load_digits()
    images, labels = source.images.astype(np.uint8), source.target.astype(np.uint8)
    train, test = split(labels)
    np.savez(
        path,
        x_train=images[train],
        y_train=labels[train],
        x_test=images[test],
        y_test=labels[test],
    )
    print(f"{path}: sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("digits.npz"))
