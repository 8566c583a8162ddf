"""Placeholder until the dispatch is there."""
