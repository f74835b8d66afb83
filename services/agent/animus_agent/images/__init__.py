"""From a manifest digest to a verified, read-only root file system."""
