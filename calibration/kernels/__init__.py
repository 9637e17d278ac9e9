"""Fused MoE kernels for Hopper GPUs."""
