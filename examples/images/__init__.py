"""Builders of OCI images from what the machine's package managers deliver: no daemon, no registry, the same bytes twice."""
