"""The public door: Envoy, configured from the descriptor set and one small settings file.

settings.py → methods.py (what is public) → routes.py, filters.py, clusters.py → config.py (the whole) → run.py.
"""
