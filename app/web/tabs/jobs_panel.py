"""The job queue with cancel and resume, and the losses and log of one job.

Refreshes every REFRESH_SECONDS.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
import pandas as pd

from app.figures.losses import loss_figure
from app.formatting import number
from app.web import html
from app.web.page.callbacks import FOLLOW, PRIVATE, Updates, callback
from app.web.page.context import Page
from app.web.page.picture import build_picture, framed
from app.web.page.selection import Selection
from app.web.page.table import build_table
from app.web.tabs.queue import queue_table

REFRESH_SECONDS = 1.5
CAPTION = "Look at the right end of each block: where the loss is still falling, more epochs would help."


@dataclass(frozen=True)
class JobsPanel:
    """The parts of the panel that a form needs.

    The selected job's id, and the event arguments that refresh the panel.
    """

    chosen: gr.State
    refresh: tuple[Any, list[gr.components.Component], list[gr.blocks.Block]]


def build_jobs_panel(page: Page, answer: gr.HTML) -> JobsPanel:
    """The table of jobs, the actions on the selected one, and its losses and log."""
    queue = build_table("calibrate-queue")
    with gr.Row(visible=False, elem_classes="abq-actions") as actions:
        cancel = gr.Button("Cancel job", size="sm", elem_id="calibrate-cancel")
        resume = gr.Button("Resume job", size="sm", elem_id="calibrate-resume")
        look = gr.Button("Show distributions", size="sm", elem_id="calibrate-look")
    figure = build_picture("calibrate-figure")
    log = gr.HTML("", elem_id="calibrate-log", js_on_load=None)
    chosen, seen, drawn = gr.State(""), gr.State(""), gr.State("")  # drawn: what the figure shows

    @callback(answer, tab="calibrate")
    def refresh(selection: Selection, job_id: str, before: str, drawn_before: str) -> Updates:
        """Update what changed since `before` and `drawn_before`: the time of a running job, but seldom its losses."""
        jobs = page.services.jobs.frame()
        jobs["job"] = jobs["job"].astype(str)
        if jobs.empty:
            shown = {queue: queue_table(jobs, ""), actions: gr.update(visible=False), figure: "", log: ""}
            return {**shown, seen: "empty", drawn: ""} if before != "empty" else {}
        if job_id not in set(jobs["job"]):
            job_id = str(jobs.iloc[0]["job"])
        losses, text = page.services.jobs.losses(job_id), page.services.jobs.log(job_id)
        job = jobs[jobs["job"].eq(job_id)].iloc[0]
        figure_now = json.dumps([job_id, number(job["blocks_total"]), len(losses), selection.dark])
        now = json.dumps([jobs.to_json(date_format="iso"), figure_now, text])
        if now == before:
            return {}
        new_figure = figure_now != drawn_before
        return {
            **({figure: _losses(job, losses, selection.dark), drawn: figure_now} if new_figure else {}),
            queue: queue_table(jobs, job_id),
            actions: gr.update(visible=True),
            cancel: gr.update(interactive=job["state"] in ("queued", "running")),
            resume: gr.update(interactive=job["state"] in ("failed", "cancelled")),
            look: gr.update(interactive=job["state"] == "succeeded"),
            log: html.render("log.html", text=text) if text else "",
            seen: now,
        }

    @callback(answer)
    def stop(_: Selection, job_id: str) -> Updates:
        state = page.services.jobs.cancel(_job(page, job_id)).state
        said = "The job is cancelled." if state == "cancelled" else "The job stops after its current step."
        return {answer: html.answer(said)}

    @callback(answer)
    def queue_again(_: Selection, job_id: str) -> Updates:
        page.services.jobs.resume(_job(page, job_id), page.limits.max_queued)
        return {answer: html.answer("The job is queued again and continues after its last finished block.")}

    @callback(answer)
    def show_distributions(selection: Selection, job_id: str) -> Updates:
        run = page.services.jobs.get(_job(page, job_id)).run_id
        shown = page.header.show_settled(replace(selection, run=run, tab="distributions"))
        return {**shown, page.tabs: gr.Tabs(selected="distributions")}

    outputs = [answer, queue, actions, cancel, resume, look, figure, log, seen, drawn]
    again = (refresh, [page.selection, chosen, seen, drawn], outputs)
    inputs = [page.selection, chosen]
    queue.select(_key, None, chosen, **PRIVATE).then(*again, **PRIVATE)
    cancel.click(stop, inputs, answer, **PRIVATE).then(*again, **PRIVATE)
    resume.click(queue_again, inputs, answer, **PRIVATE).then(*again, **PRIVATE)
    look.click(show_distributions, inputs, [answer, *page.header.outputs, page.tabs], **PRIVATE)
    page.turn("calibrate")(*again, **FOLLOW)
    gr.Timer(REFRESH_SECONDS).tick(*again, **PRIVATE)
    return JobsPanel(chosen, again)


def _losses(job: pd.Series, losses: pd.DataFrame, dark: bool) -> str:
    figure = loss_figure(losses, int(number(job["blocks_total"]) or 0), dark)
    caption = CAPTION if len(losses) else ""
    return framed(figure, caption, f"abq/job/{job['job']}/losses.csv", f"losses-{job['run']}")


def _key(event: gr.SelectData) -> str:
    return str(event.value)


def _job(page: Page, chosen: str) -> str:
    """The selected job, or the newest one if none is selected yet."""
    if not chosen and page.services.jobs.frame().empty:
        raise ValueError("There is no job yet: press Calibrate.")
    return chosen or str(page.services.jobs.frame().iloc[0]["job"])
