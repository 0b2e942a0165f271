"""Open questions for the audience: those that the data raise, then those that reviewers left open."""

import pandas as pd
from markupsafe import Markup

from ktask.lab.evidence.stack import UNEXPLAINED
from ktask.report import markup
from ktask.report import sentences as words

STANDING = (
    "How many threads should a kernel path ask for, when it knows neither the bandwidth of the memory nor "
    "what else is running? Static limits were refused in review [2], and no call was found that says when "
    "the scheduler could spare a CPU.",
    "Who pays for the helpers' CPU time: the caller's control group, its limits included, or nobody? "
    "Moving the workers there and charging afterwards were both posted [4], and neither was taken.",
    "May idle CPUs be used at all where they are idle on purpose, for power or for latency?",
    "What does such a gain bring to a program that its users wait for? That needs a workload of yours; "
    "`ktask run` measures the path inside it.",
)
ASKED = {
    "busy": "What do the threads spin on, or share, in {}? The same work takes more CPU time there; from "
    "user space a lock looks the same as slow memory. `ktask run --evidence` shows which.",
    "both": "Do the threads spin or sleep in {}? The same work takes more CPU time, and they are off the CPU "
    "part of the time.",
    "waiting": "What do the threads wait for in {}? They are off the CPU part of the time.",
    "end": "Would smaller chunks, or ones that shrink towards the end, help {}? Threads run out of work.",
    "start": "Could helpers start earlier for {}? Most of the loss is start-up.",
    "gaps": "What delays threads between chunks in {}?",
    UNEXPLAINED: "What takes the time in {} that neither samples, locks nor chunks explain?",
}


def open_questions(evidence: pd.DataFrame) -> Markup:
    """Return the questions as a list; the first ones come from the evidence on each path."""
    kernel = evidence[evidence["backend"] == "kernel"] if len(evidence) else evidence
    found = [
        ASKED[str(bottleneck)].format(words.listed(words.each(rows, words.name_of)))
        for bottleneck, rows in kernel.groupby("bottleneck", sort=False)
        if bottleneck in ASKED
    ]
    return markup.items(map(markup.with_code, [*found, *STANDING]), "ol")
