"""What is said of wrong settings of training, apart from modules that take seconds to import."""

SHARD_NEEDS_FULL = (
    "shard: only full fine-tuning shards its weights; adapters are small "
    "(mode: full, or shard: false)"
)
"""What is wrong with `shard` in a section whose `mode` is another."""
