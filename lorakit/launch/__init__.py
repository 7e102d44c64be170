"""How a training runs: accelerate's config, the shim, the supervisor."""
