"""The ways out of a block, to be tried on everything that promises to restore.

    @pytest.mark.parametrize("way_out", EXITS, ids=exit_name)
    def test_restores(way_out):
        with leaving(way_out) as leave:
            with preserve_state(model):
                ...
                leave()

`leave()` takes the way out: an exception, or nothing for the normal one. `leaving` lets exactly
that exception end there, and fails if another one came, or none, or `leave` was never reached.
"""

from contextlib import contextmanager

import pytest
import torch

EXITS = (None, ValueError, torch.OutOfMemoryError, KeyboardInterrupt, SystemExit, GeneratorExit)
WORDS = "on the way out"


def exit_name(way_out):
    return "normal" if way_out is None else way_out.__name__


@contextmanager
def leaving(way_out):
    taken = []

    def leave():
        taken.append(way_out)
        if way_out is not None:
            raise way_out(WORDS)

    if way_out is None:
        yield leave
    else:
        with pytest.raises(way_out, match=WORDS):
            yield leave
    assert taken == [way_out], "leave() must be called once, last in the block"
