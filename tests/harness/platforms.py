"""Programs of another platform, run on CPU."""

import contextlib
from collections.abc import Iterator

import jax
import pytest

from jaxloss import _xla


@contextlib.contextmanager
def forms_of(platform: str) -> Iterator[None]:
    """Programs take the forms of this platform.

    `lax.platform_dependent` is replaced by one that takes its branch, and every array counts as too
    large for a cache, so that no hint is left out.
    """

    def chosen(*arguments, default, **platforms):
        return platforms.get(platform, default)(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.lax, "platform_dependent", chosen)
        patch.setattr(_xla, "_CACHE_ENTRIES", -1)
        patch.setattr(_xla, "_GPU_CACHE_ENTRIES", -1)
        jax.clear_caches()
        yield
    jax.clear_caches()
