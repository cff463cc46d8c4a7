"""The queue with cancel and resume, and the losses and log of one job. Looks again every REFRESH_SECONDS."""

import json
from dataclasses import dataclass, replace

import gradio as gr

from app import formatting
from app.figures.losses import loss_figure
from app.web.tabs import words
from app.web.tabs.guard import guarded
from app.web.tabs.page import Page
from app.web.tabs.picture import build_picture, framed
from app.web.tabs.queue import queue_html
from app.web.tabs.selection import Selection
from app.web.tabs.table import build_table

REFRESH_SECONDS = 1.5
CAPTION = "Look for lines that still fall at the right end of a block: more epochs would help there."
PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass(frozen=True)
class JobsPanel:
    """What a form needs of the panel: the chosen job's id, and how to look again after an event."""

    chosen: gr.State
    refresh: tuple[object, list[gr.components.Component], list[gr.components.Component]]


def build_jobs_panel(page: Page, answer: gr.HTML) -> JobsPanel:
    """Wires widgets; the services do the work."""
    queue = build_table("calibrate-queue")
    with gr.Row(visible=False, elem_classes="abq-actions") as actions:
        cancel = gr.Button("Cancel this job", size="sm", elem_id="calibrate-cancel")
        resume = gr.Button("Resume this job", size="sm", elem_id="calibrate-resume")
        look = gr.Button("See its distributions", size="sm", elem_id="calibrate-look")
    figure = build_picture("calibrate-figure")
    log = gr.HTML("", elem_id="calibrate-log", js_on_load=None)
    chosen, seen = gr.State(""), gr.State("")
    outputs = [answer, queue, actions, cancel, resume, look, figure, log, seen]

    @guarded(len(outputs))
    def refresh(text: str, chosen: str, seen: str) -> list[object]:
        """The panel, or skips where nothing changed since `seen`."""
        selection = Selection.from_json(text)
        if selection.tab != "calibrate":
            return [gr.skip()] * len(outputs)
        jobs = page.services.jobs.frame()
        jobs["job"] = jobs["job"].astype(str)
        if len(jobs) and chosen not in set(jobs["job"]):
            chosen = str(jobs.iloc[0]["job"])
        losses = page.services.jobs.losses(chosen) if len(jobs) else None
        logged = page.services.jobs.log(chosen) if len(jobs) else ""
        now = json.dumps(
            [jobs.to_json(date_format="iso"), chosen, 0 if losses is None else len(losses), logged, selection.dark]
        )
        if now == seen:
            return [gr.skip()] * len(outputs)
        if losses is None:
            return [gr.skip(), queue_html(jobs, ""), gr.update(visible=False), *[gr.skip()] * 3, "", "", now]
        job = jobs[jobs["job"].eq(chosen)].iloc[0]
        picture = framed(
            loss_figure(losses, int(formatting.number(job["blocks_total"]) or 0), selection.dark),
            CAPTION if len(losses) else "", f"abq/job/{chosen}/losses.csv", f"losses-{job['run']}",
        )  # fmt: skip
        return [
            gr.skip(),
            queue_html(jobs, chosen),
            gr.update(visible=True),
            gr.update(interactive=job["state"] in ("queued", "running")),
            gr.update(interactive=job["state"] in ("failed", "cancelled")),
            gr.update(interactive=job["state"] == "succeeded"),
            picture,
            f'<pre class="abq-log" tabindex="0" aria-label="log">{words.escape(logged)}</pre>' if logged else "",
            now,
        ]

    @guarded(1)
    def stop(job: str, text: str) -> list[object]:
        state = page.services.jobs.cancel(_job(page, job)).state
        return [
            words.answer("The job is cancelled." if state == "cancelled" else "The job stops after the step it is in.")
        ]

    @guarded(1)
    def go_on(job: str, text: str) -> list[object]:
        page.services.jobs.resume(_job(page, job))
        return [words.answer("The job is queued again; it goes on after its last finished block.")]

    @guarded(2)
    def see(job: str, text: str) -> list[object]:
        run = page.services.jobs.get(_job(page, job)).run_id
        chosen = replace(Selection.from_json(text), run=run, tab="distributions").settled(
            page.services.runs.newest_frame()
        )
        return [gr.skip(), *page.header.show(chosen), gr.Tabs(selected="distributions")]

    again = (refresh, [page.selection, chosen, seen], outputs)
    queue.select(_key, None, chosen, **PRIVATE).then(*again, **PRIVATE)
    cancel.click(stop, [chosen, page.selection], answer, **PRIVATE).then(*again, **PRIVATE)
    resume.click(go_on, [chosen, page.selection], answer, **PRIVATE).then(*again, **PRIVATE)
    look.click(see, [chosen, page.selection], [answer, *page.header.outputs, page.tabs], **PRIVATE)
    page.selection.change(*again, **PRIVATE)
    gr.Timer(REFRESH_SECONDS).tick(*again, **PRIVATE)
    return JobsPanel(chosen, again)


def _key(event: gr.SelectData) -> str:
    return str(event.value)


def _job(page: Page, chosen: str) -> str:
    """The chosen job, or the newest one where none was chosen yet."""
    return chosen or str(page.services.jobs.frame().iloc[0]["job"])
