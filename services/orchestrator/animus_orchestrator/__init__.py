"""Animus orchestrator: pipelines, plans, runs, steps, attempts, contracts and agents."""
