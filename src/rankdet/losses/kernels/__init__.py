"""Kernels beside the fast paths in torch: ``negatives.py`` in Triton for GPUs, ``cpu`` by numba.

They import triton and numba, and are imported only where one of these is to be used.
"""
