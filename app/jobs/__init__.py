"""Running calibration jobs: worker, lease, progress and executors."""
