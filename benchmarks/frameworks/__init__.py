"""Detectors of other frameworks in one form, so that benchmarks train and measure them alike; a module for each."""
