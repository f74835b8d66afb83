"""What a gRPC process of ours is made of. See `serve` for how the parts meet."""
