"""Reading images from container registries, by digest only."""
