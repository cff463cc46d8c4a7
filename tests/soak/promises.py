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
        "No job is claimed twice", "0 doubles, 0 errors, p99 <= 200 ms", soak_queue.check_claims, timed=True
    ),
    "naive": Promise("... and the race detects a naive claim", "doubles > 0", soak_queue.check_naive_claims),
    "kills": Promise(
        "No finished block is lost",
        "0 lost, at most 1 recomputed per kill, equal hashes",
        soak_kills.check_kills,
        minutes=7,
    ),
    "resume": Promise("Resume changes nothing", "equal bit for bit", soak_kills.check_resume, minutes=3),
    "stale": Promise("A stale owner writes nothing", "0 rows, 0 files", soak_kills.check_stale, minutes=4),
    "dead": Promise(
        "A dead worker is noticed", "2 s if the parent sees it, else 35 s", soak_kills.check_dead, timed=True
    ),
    "busy": Promise("A live worker is never robbed", "0 rescues", soak_kills.check_busy, minutes=2),
    "cancel": Promise("Cancel works in every state", "p95 <= 2 s, hung <= 16 s", soak_cancel.check_cancel, timed=True),
    "races": Promise("... and against a finish", "exactly one final state", soak_cancel.check_cancel_races),
    "poison": Promise("A poisonous job stops", "failed after 3, others continue", soak_cancel.check_poison),
    "dashboard": Promise(
        "The dashboard may die", "no orphan after 10 s, 0 lost", soak_dashboard.check_dashboard, timed=True
    ),
    "faults": Promise("Faults of the disk are survived", "the old state or the new", soak_disk.check_faults, minutes=4),
    "full": Promise("... and a full disk", "a clear error, the job resumes", soak_disk.check_full_disk),
    "cluster": Promise(
        "A node of a cluster may die", "nothing lost, nothing twice", soak_cluster.check_cluster, minutes=4
    ),
    "progress": Promise(
        "Progress is cheap and durable", "0 lost, increasing, reads p95 <= 50 ms", soak_queue.check_progress, timed=True
    ),
    "order": Promise("First come, first served", "exact order", soak_queue.check_order),
    "old": Promise("An old database opens", "every released schema", soak_disk.check_old_databases),
    "sites": Promise("Other sites cannot drive it", "all refused, no callback run", soak_security.check_other_sites),
    "files": Promise("No file leaks", "0 bytes", soak_security.check_files, minutes=2),
    "code": Promise("A model runs no code", "refused in 2 s, no canary", soak_security.check_models, timed=True),
    "hostile": Promise("Hostile text is inert", "no script runs, figures draw", soak_security.check_hostile_text),
    "input": Promise("Bad input gets an answer", "a named error, no traceback", soak_security.check_input, minutes=19),
    "config": Promise(
        "... a config from a fuzzer", "no traceback", partial(soak_security.check_fuzzed, "config"), minutes=6
    ),
    "precision": Promise(
        "... a precision from a fuzzer",
        "no traceback",
        partial(soak_security.check_fuzzed, "precision"),
        minutes=6,
    ),
    "bounded": Promise(
        "Load is bounded", "all refused, the queue ends, memory < 200 MiB more", soak_server.check_bounded, minutes=4
    ),
    "visitors": Promise("Many visitors are served", "0 errors, p95 <= 2 s", soak_server.check_visitors, timed=True),
    "large": Promise("Years of work open at once", "each tab < 2 s", soak_server.check_large_database, timed=True),
}
