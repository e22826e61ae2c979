"""Triton kernels, one file beside each fast path that has one. They import triton; nothing here does so by itself."""
