r"""Losses inside `jax.shard_map`, where each device sees its shard alone."""
