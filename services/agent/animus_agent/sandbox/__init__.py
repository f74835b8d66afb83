"""Running one container with nothing else in reach: drivers, OCI configuration, quota volumes, canaries."""
