"""All promises about jobs and the server, with their limits and checks."""

from functools import partial

import soak_cancel
import soak_cluster
import soak_dashboard
import soak_disk
import soak_kills
import soak_queue
import soak_security
import soak_server
from promise import Promise

PROMISES = {
    "claims": Promise(
        "No job is claimed twice", "0 double claims, 0 errors, p99 <= 200 ms", soak_queue.check_claims, timed=True
    ),
    "naive": Promise("The same race detects a naive claim", "double claims > 0", soak_queue.check_naive_claims),
    "kills": Promise(
        "No finished block is lost",
        "0 lost, at most 1 recomputed per kill, equal hashes",
        soak_kills.check_kills,
        minutes=7,
    ),
    "resume": Promise("A resumed job has the same result", "equal bit for bit", soak_kills.check_resume, minutes=3),
    "stale": Promise(
        "A worker that lost its lease writes nothing", "0 rows, 0 files", soak_kills.check_stale, minutes=4
    ),
    "dead": Promise("A dead worker is detected", "2 s with a supervisor, else 35 s", soak_kills.check_dead, timed=True),
    "busy": Promise("A live worker keeps its job", "0 takeovers", soak_kills.check_busy, minutes=2),
    "cancel": Promise("Cancel works in every state", "p95 <= 2 s, hung <= 16 s", soak_cancel.check_cancel, timed=True),
    "races": Promise("Cancel and finish do not conflict", "exactly one final state", soak_cancel.check_cancel_races),
    "poison": Promise(
        "A job that always crashes fails", "failed after 3 crashes, others continue", soak_cancel.check_poison
    ),
    "dashboard": Promise(
        "The dashboard can be killed", "no orphan after 10 s, 0 lost", soak_dashboard.check_dashboard, timed=True
    ),
    "faults": Promise(
        "Disk faults leave no partial writes", "the old state or the new", soak_disk.check_faults, minutes=4
    ),
    "full": Promise("A full disk is survived", "a clear error, the job resumes", soak_disk.check_full_disk),
    "cluster": Promise(
        "A cluster node can die", "nothing lost, nothing recorded twice", soak_cluster.check_cluster, minutes=4
    ),
    "progress": Promise(
        "Progress is cheap and durable", "0 lost, increasing, reads p95 <= 50 ms", soak_queue.check_progress, timed=True
    ),
    "order": Promise("Jobs run in the order of submission", "exact order", soak_queue.check_order),
    "old": Promise("An old database opens", "every released schema", soak_disk.check_old_databases),
    "sites": Promise(
        "Other web sites cannot use the page", "all refused, no callback run", soak_security.check_other_sites
    ),
    "files": Promise("Files are not exposed", "0 bytes", soak_security.check_files, minutes=2),
    "code": Promise(
        "Model files cannot run code", "refused within 2 s, no canary file", soak_security.check_models, timed=True
    ),
    "hostile": Promise(
        "Hostile text is harmless", "no script runs, figures are drawn", soak_security.check_hostile_text
    ),
    "input": Promise(
        "Invalid input gets a clear error", "a named error, no traceback", soak_security.check_input, minutes=19
    ),
    "config": Promise("Fuzzed configs", "no traceback", partial(soak_security.check_fuzzed, "config"), minutes=6),
    "precision": Promise(
        "Fuzzed precisions",
        "no traceback",
        partial(soak_security.check_fuzzed, "precision"),
        minutes=6,
    ),
    "bounded": Promise(
        "Load is limited", "all refused, queue limited, memory grows < 200 MiB", soak_server.check_bounded, minutes=4
    ),
    "visitors": Promise("Many visitors are served", "0 errors, p95 <= 2 s", soak_server.check_visitors, timed=True),
    "large": Promise("A large database stays fast", "each tab < 2 s", soak_server.check_large_database, timed=True),
}
