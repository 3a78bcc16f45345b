"""Workloads: what a node trains, and on what."""
