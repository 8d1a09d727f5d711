"""One configuration for all tests: fixed draws, no surprises from the environment."""

import hypothesis

# Compilation dominates: few examples, each of many rows, and the same ones on every run.
hypothesis.settings.register_profile("fixed", max_examples=4, deadline=None, derandomize=True)
hypothesis.settings.load_profile("fixed")
