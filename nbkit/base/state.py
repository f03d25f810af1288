"""Undo everything that a trial run does to a training.

    before = digest(model, optimizer)
    with preserve_state(model, optimizer):
        ...  # train, diverge, press stop
    assert digest(model, optimizer) == before

One walk (`places.find_places`) lists every place where the objects keep state, each once, with its
value and a way to put a value back. `digest` hashes the values; `preserve_state` copies them and
puts the copies back. So both cover the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from nbkit.base.place import LOADED, MEMORY, Place
from nbkit.base.places import find_places


@contextlib.contextmanager
def preserve_state(*objects: object, rng: bool = True, offload: bool = False) -> Iterator[None]:
    """Put the objects and the random state back as they were, however the block ends.

    Of a module, everything is put back: parameters and buffers (non-persistent ones too) with
    their `.grad`, `requires_grad` and hooks; what is registered under which name; its modes, its
    hooks, its class (a parametrization changes it), and its plain attributes with the lists, dicts,
    arrays, random generators and objects in them. Of an optimizer it is the state, the param
    groups and every other attribute, also those that its `state_dict` leaves out; likewise of a
    scheduler, a `GradScaler` or a wrapper, with the optimizer that it holds. Of a sampler it is the
    source of its random numbers. Of any other object it is what `state_dict` gives, and its numbers
    and tensors beside that.

    All of it is put back in place. A tensor stays the same object in the same memory, so tied
    weights stay tied, and hooks, compiled wrappers and views hold. What the block put in its place
    is dropped. A `.grad` that was None is None again, an empty optimizer state is empty again.

    Args:
        objects: modules, optimizers, schedulers, samplers, tensors, `torch.Generator`s, and
            anything else that has `state_dict` and `load_state_dict`.
        rng: also the random state of torch (CPU and every CUDA device), of `random` and, where it
            is loaded, of numpy. CUDA is not started for it.
        offload: keep the copies in CPU memory, so that GPU memory does not double.
    Raises:
        TypeError: before the block, if an object, or something in it, could not be put back.
        ExceptionGroup: after the block, if putting back failed somewhere; all the rest is back.

    What a hook or a function collects is its owner's and stays. Handles on something outside, such
    as a lock, a log file or a process group, stay as they are, and so does what DDP, a compiled or
    a scripted model knows beside its modules. Not covered: the random state of accelerators other
    than CUDA, and torch's global settings.

    >>> import torch
    >>> layer = torch.nn.Linear(2, 1)
    >>> before = digest(layer)
    >>> with preserve_state(layer):
    ...     torch.nn.init.normal_(layer.eval().weight).sum().backward()
    >>> digest(layer) == before
    True
    """
    # The walk and the copies are made before the block: a refusal leaves everything untouched.
    found = find_places(objects, rng)
    places = list(found.values())
    # What is restored where it is, or stays as it is, is not copied with what refers to it.
    memo = {id(place.owner): place.owner for place in places} | found.references
    for place in places:
        place.save_value(memo, offload)

    try:
        yield
    finally:
        with delay_interrupts():
            _restore(places)


def digest(*objects: object, rng: bool = True) -> str:
    """Compute a SHA-256 of exactly what `preserve_state` puts back, so that it can be checked.

    Names, types, shapes, strides, devices and bytes count: 0.0 is not -0.0, and two tied weights
    are not two equal ones. Equal states have equal digests in every process.

    Args:
        objects: as for `preserve_state`.
        rng: whether the random state counts. CUDA's counts once CUDA has been started.
    Returns:
        str: 64 hexadecimal digits.
    Raises:
        TypeError: for what `preserve_state` refuses.

    >>> import copy, torch
    >>> layer = torch.nn.Linear(2, 1)
    >>> digest(layer, rng=False) == digest(copy.deepcopy(layer), rng=False)
    True
    """
    places = find_places(objects, rng)
    # Ids differ between processes; the order in which the places are found does not.
    number = {owner: n for n, owner in enumerate(places)}
    # One hash over all places: for each its value in words, then its bytes.
    sha = hashlib.sha256()
    for place in places.values():
        words = []
        for leaf in place.describe_value(places):
            words.append(leaf if type(leaf) is str else f"place {number[id(leaf)]}")
        words.append("")  # so that the last word ends in a line break too
        sha.update("\n".join(words).encode())
        sha.update(place.read_content())
    return sha.hexdigest()


def _restore(places: Iterable[Place]) -> None:
    """Put every place back, also after an error, the last found first."""
    errors: list[BaseException] = []
    # Objects found last are held by those found first, so they are put back before them.
    in_turn = sorted(reversed(list(places)), key=lambda place: place.turn)
    loaded = [place for place in in_turn if place.turn == LOADED]
    if loaded:
        # What load_state_dict is given holds tensors, and it may write into any: memory goes twice.
        memory = [place for place in in_turn if place.turn == MEMORY]
        in_turn = memory + loaded + [place for place in in_turn if place.turn != LOADED]
    for place in in_turn:
        try:
            place.put_back(place.saved)
        except BaseException as error:  # even a SystemExit must not keep the rest from its turn
            error.add_note(f"while restoring {place.name}")
            errors.append(error)
    if errors:
        raise BaseExceptionGroup("preserve_state put everything back except:", errors)


@contextlib.contextmanager
def delay_interrupts() -> Iterator[None]:
    """Hold a Ctrl-C back until the block has ended, and raise its KeyboardInterrupt then."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        # Python raises KeyboardInterrupt in the main thread, and by its own handler, only.
        yield
        return
    # The handler only takes note, so that no restoration stops half way.
    waiting: list[Any] = []
    signal.signal(signal.SIGINT, lambda *interrupt: waiting.append(interrupt))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if waiting:
            raise KeyboardInterrupt
