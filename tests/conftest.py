"""One configuration for all tests: fixed draws, no surprises from the environment."""

import gc

import hypothesis

# Compilation dominates: few examples, each of many rows, and the same ones on every run.
hypothesis.settings.register_profile("fixed", max_examples=4, deadline=None, derandomize=True)
hypothesis.settings.load_profile("fixed")


def pytest_collection_finish():
    """Of what is here now, nothing becomes garbage: looking for it again and again takes time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
