"""The bytes: where they lie, how they come in, and how they are read."""
