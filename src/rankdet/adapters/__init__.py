"""The losses in other people's detectors, one module per framework, each of which imports its framework itself.

:mod:`rankdet.adapters.detr` serves any DETR repository and needs torch alone.
"""
