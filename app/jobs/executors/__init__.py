"""Where jobs run: on this machine (local) or on a cluster (cluster for the scheduling, ray for Ray clusters)."""
