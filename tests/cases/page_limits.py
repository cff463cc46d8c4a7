"""How long a browser test waits: only a hang takes this long, also on a slow machine that is busy with other work."""

STEP_MS = 240_000
JOB_MS = 1_200_000  # a calibration, or a measurement of minutes
TEST_SECONDS = 3600
