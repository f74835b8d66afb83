"""The catalog: what a run may name, and the bytes behind the names."""
