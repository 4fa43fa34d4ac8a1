"""Generators of random numbers that a fork would copy."""

import random

import numpy as np

np.random.seed(1)  # noqa: NPY002 - the global one is what this is about
own = random.Random(1)
state = np.random.RandomState(1)
generator = np.random.default_rng(1)


def draw(_):
    """Return a number of each."""
    return (
        random.random(),
        own.random(),
        float(np.random.rand()),  # noqa: NPY002 - as above
        float(state.rand()),
        float(generator.random()),
    )
