"""Executors of jobs: on this machine (local) or on a Ray cluster (cluster, ray)."""
