"""How often XLA compiles."""

import jax


def compilations(function, calls=3):
    """How many programs the last of some calls compiles."""
    found = []

    def count(event, _, **__):
        if "backend_compile" in event:
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        for _ in range(calls):
            found.clear()
            jax.block_until_ready(function())
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    return len(found)
